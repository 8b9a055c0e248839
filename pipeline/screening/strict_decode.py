"""Errors and warnings of libjpeg-turbo about a JPEG.

Calls TurboJPEG's C functions directly, where they can be found. The package `turbojpeg` (0.0.2),
which brings the library, leaks the decoded image and its handle whenever it raises an error.
"""

from __future__ import annotations

import ctypes
from functools import cache

import turbojpeg

from pipeline.error_text import one_line

# From turbojpeg.h.
_TJINIT_DECOMPRESS = 1
_TJPARAM_JPEGWIDTH, _TJPARAM_JPEGHEIGHT, _TJPARAM_COLORSPACE = 5, 6, 8
_TJPF_RGB, _TJPF_GRAY, _TJPF_CMYK = 0, 6, 11
# TJCS_GRAY, TJCS_CMYK and TJCS_YCCK: pixel format, bytes per pixel.
_FORMATS = {2: (_TJPF_GRAY, 1), 3: (_TJPF_CMYK, 4), 4: (_TJPF_CMYK, 4)}


def strict_decode_error(data: bytes) -> str | None:
    """libjpeg-turbo's first warning or error, in one line; None if there is none.

    Decodes the whole image (1.5 ms for 500x375) and allocates width x height x 3 bytes: check the
    size first. Thread-safe.
    """
    library = _library()
    reason = _package_error(data) if library is None else _library_error(library, data)
    return None if reason is None else one_line(reason)


def _package_error(data: bytes) -> str | None:
    try:
        turbojpeg.decompress(data, raise_on_warnings=True)
    except RuntimeError as error:
        return str(error)
    return None


def _library_error(library: ctypes.CDLL, data: bytes) -> str | None:
    handle = library.tj3Init(_TJINIT_DECOMPRESS)
    if not handle:
        raise MemoryError("libjpeg-turbo cannot create a decompressor")
    try:
        failed = library.tj3DecompressHeader(handle, data, len(data))
        failed = failed or _decompress(library, handle, data)
        return library.tj3GetErrorStr(handle).decode(errors="replace") if failed else None
    finally:
        library.tj3Destroy(handle)


def _decompress(library: ctypes.CDLL, handle: int, data: bytes) -> int:
    """0 when the image decodes without an error or a warning."""
    width = library.tj3Get(handle, _TJPARAM_JPEGWIDTH)
    height = library.tj3Get(handle, _TJPARAM_JPEGHEIGHT)
    color_space = library.tj3Get(handle, _TJPARAM_COLORSPACE)
    pixel_format, pixel_bytes = _FORMATS.get(color_space, (_TJPF_RGB, 3))
    picture = ctypes.create_string_buffer(width * height * pixel_bytes)
    found: int = library.tj3Decompress8(handle, data, len(data), picture, 0, pixel_format)
    return found


@cache
def _library() -> ctypes.CDLL | None:
    """libjpeg-turbo, through the package's extension module, which is linked to it.

    None when a version of the package is built otherwise.
    """
    handle, file = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_size_t)
    try:
        library = ctypes.CDLL(turbojpeg.__file__)
        library.tj3Init.restype = handle
        library.tj3GetErrorStr.restype = ctypes.c_char_p
        library.tj3GetErrorStr.argtypes = library.tj3Destroy.argtypes = (handle,)
        library.tj3Destroy.restype = None
        library.tj3Get.argtypes = (handle, ctypes.c_int)
        library.tj3DecompressHeader.argtypes = (handle, *file)
        pitch_and_format = (ctypes.c_int, ctypes.c_int)
        library.tj3Decompress8.argtypes = (handle, *file, ctypes.c_void_p, *pitch_and_format)
    except (AttributeError, OSError):
        return None
    return library
