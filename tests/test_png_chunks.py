"""A PNG's picture stays, all else goes; the file's damage stays as well."""

import io
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from decoding import decode_all, plain, screened, torchvision_input
from jpegs import photo, png_chunk, save, with_png_chunks
from PIL import Image, PngImagePlugin

from pipeline.decode import DecodeOptions, Decoder
from pipeline.records import Status
from pipeline.screening.png_chunks import picture_chunks

HERE = Path(__file__).parent
RGB = photo(60, 80)
PNG = save(RGB, "PNG")


def types(png: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        found.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return found


def test_what_is_no_picture_is_left_out() -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", "a" * 1000, zip=True)
    palette = Image.fromarray(RGB).convert("P")
    png = save(palette, "PNG", pnginfo=about, transparency=3, dpi=(72, 72), icc_profile=bytes(99))
    assert {b"zTXt", b"pHYs", b"iCCP"} < set(types(png))
    found = picture_chunks(with_png_chunks(png, b"IEND", png_chunk(b"tIME", bytes(7))))
    assert types(found) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    for mode in ("RGB", "RGBA"):
        images = [Image.open(io.BytesIO(data)).convert(mode) for data in (png, found)]
        np.testing.assert_array_equal(*images)


def test_a_plain_png_is_the_same_object() -> None:
    assert picture_chunks(PNG) is PNG


@pytest.mark.parametrize("length", [8, 11, 20, 33, 40, len(PNG) - 12, len(PNG) - 3])
def test_a_cut_png_stays_cut(length: int) -> None:
    assert picture_chunks(PNG[:length]) == PNG[:length]


def test_a_chunk_that_the_file_ends_in_stays() -> None:
    text = png_chunk(b"tEXt", b"a\0b")
    png = with_png_chunks(PNG, b"IEND", text + struct.pack(">I", 10**6) + b"tEXt")
    assert picture_chunks(png) == png.replace(text, b"")


def test_text_behind_the_picture_is_not_inflated() -> None:
    """Of each chunk libpng keeps up to 8 MB: 3 MB of a file cost 3 GB and 15 seconds."""
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000), 9))
    (image,) = screened([with_png_chunks(PNG, b"IEND", bomb * 400)])
    assert image.status == Status.OK
    assert image.data == PNG
    assert image.num_bytes == len(PNG) + 400 * len(bomb)


def test_of_an_animation_the_picture_itself_is_decoded() -> None:
    """As in Pillow; DALI would give a black one, or its first frame."""
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    whole = Image.fromarray(RGB)
    frames = save(
        whole, "PNG", save_all=True, default_image=True, append_images=[whole.rotate(180)] * 2
    )
    files = [with_png_chunks(PNG, b"IDAT", control), frames]
    decoder = Decoder(plain(None, 64), DecodeOptions(batch_size=2))
    found = decode_all(decoder, screened(files))
    for row, data in enumerate(files):
        np.testing.assert_array_equal(found[row].rgb, torchvision_input(data, plain(None, 64)))


def test_a_damaged_animation_does_not_end_the_process() -> None:
    """DALI 2.4's PNG decoder reads beyond a frame's data (SIGSEGV), so in a process of its own."""
    code = """
        import struct
        from decoding import decode_all, plain, screened
        from jpegs import photo, png_chunk, save, with_png_chunks
        from pipeline.decode import DecodeOptions, Decoder

        png = save(photo(300, 300), "PNG")
        control = png_chunk(b"acTL", struct.pack(">II", 2, 0))
        frame = struct.pack(">IIIIIHHBB", 0, 300, 300, 0, 0, 1, 10, 0, 0)
        frames = png_chunk(b"fcTL", frame) + png_chunk(b"fdAT", b"ab")
        damaged = with_png_chunks(with_png_chunks(png, b"IDAT", control), b"IEND", frames)
        decoder = Decoder(plain(None, 64), DecodeOptions(batch_size=4))
        for _ in range(20):
            assert len(decode_all(decoder, screened([damaged] * 4))) == 4
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=HERE, check=False)
    assert process.returncode == 0
