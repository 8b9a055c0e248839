"""libjpeg-turbo as a judge: what it has against a JPEG, warnings included.

By TurboJPEG's own C functions: what the package `turbojpeg` (0.0.2) wraps around them keeps the
whole picture in memory, for ever, each time that it raises an error.
"""

import ctypes
from functools import cache

import turbojpeg

from pipeline.error_text import one_line

# Of turbojpeg.h.
_TJINIT_DECOMPRESS = 1
_TJPARAM_JPEGWIDTH, _TJPARAM_JPEGHEIGHT, _TJPARAM_COLORSPACE = 5, 6, 8
_TJPF_RGB, _TJPF_GRAY, _TJPF_CMYK = 0, 6, 11
_FORMATS = {2: (_TJPF_GRAY, 1), 3: (_TJPF_CMYK, 4), 4: (_TJPF_CMYK, 4)}  # colour space -> bytes


def strict_decode_error(data: bytes) -> str | None:
    """What libjpeg-turbo says when its warnings count as errors; None when it is content.

    Decodes the whole picture (1.5 ms for 500x375) and allocates width x height x 3 bytes: check
    the size first, or call `check_integrity`, which does. Any number of threads may call it.
    """
    library = _library()
    handle = library.tj3Init(_TJINIT_DECOMPRESS)
    if not handle:
        raise MemoryError("libjpeg-turbo cannot be started")
    try:
        failed = library.tj3DecompressHeader(handle, data, len(data))
        failed = failed or _decompress(library, handle, data)
        reason = library.tj3GetErrorStr(handle).decode(errors="replace") if failed else None
    finally:
        library.tj3Destroy(handle)
    return None if reason is None else one_line(reason)


def _decompress(library: ctypes.CDLL, handle: int, data: bytes) -> int:
    """Not 0 for an error or a warning."""
    width = library.tj3Get(handle, _TJPARAM_JPEGWIDTH)
    height = library.tj3Get(handle, _TJPARAM_JPEGHEIGHT)
    colours = library.tj3Get(handle, _TJPARAM_COLORSPACE)
    pixel_format, pixel_bytes = _FORMATS.get(colours, (_TJPF_RGB, 3))
    picture = ctypes.create_string_buffer(width * height * pixel_bytes)
    found: int = library.tj3Decompress8(handle, data, len(data), picture, 0, pixel_format)
    return found


@cache
def _library() -> ctypes.CDLL:
    """The library that the package brings; a look-up of names includes what a file is linked to."""
    library = ctypes.CDLL(turbojpeg.__file__)
    handle, file = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_size_t)
    library.tj3Init.restype = handle
    library.tj3GetErrorStr.restype = ctypes.c_char_p
    library.tj3GetErrorStr.argtypes = library.tj3Destroy.argtypes = (handle,)
    library.tj3Destroy.restype = None
    library.tj3Get.argtypes = (handle, ctypes.c_int)
    library.tj3DecompressHeader.argtypes = (handle, *file)
    library.tj3Decompress8.argtypes = (handle, *file, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    return library
