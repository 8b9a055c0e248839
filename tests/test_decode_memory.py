"""What decoding holds: few large pictures at once, and none that is done with."""

import ctypes
from collections.abc import Iterator

import pytest
from decoding import plain, screened
from jpegs import encode, photo

from pipeline.decode import DecodeOptions, Decoder
from pipeline.records import EncodedImage, Status
from pipeline.screening.jpeg_integrity import IntegrityLevel
from pipeline.screening.screen import Limits, screen
from pipeline.screening.strict_decode import strict_decode_error
from pipeline.stage_clock import StageClock

HEIGHT, WIDTH = 300, 400


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def bytes_in_use() -> int:
    """By the C library's count, of all threads: a process's size also holds what is free."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("needs glibc 2.33")
    mallinfo2.restype = _MallocInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(plain(64, 64), DecodeOptions(batch_size=8))


def decoded(decoder: Decoder, images: list[EncodedImage]) -> Iterator[tuple[int, int]]:
    """Per batch: its images, and those that wait behind it."""
    for batch in decoder.decode(images, StageClock()):
        yield len(batch.images), sum(map(len, decoder._in_flight))


def test_of_large_pictures_few_are_in_memory_at_once(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [encode(photo(HEIGHT, WIDTH))] * 9
    assert list(decoded(decoder, screened(files))) == [(8, 1), (1, 0)]
    monkeypatch.setattr(decoder, "_max_pixels", 2 * HEIGHT * WIDTH)
    expected = [(2, 2), (2, 2), (2, 2), (2, 1), (1, 0)]
    assert list(decoded(decoder, screened(files))) == expected
    monkeypatch.setattr(decoder, "_max_pixels", HEIGHT * WIDTH // 3)  # each is larger
    assert list(decoded(decoder, screened(files))) == [(1, 0)] * 9


def test_more_threads_may_have_larger_batches() -> None:
    geometry = plain(64, 64)
    one, two, many = (
        Decoder(geometry, DecodeOptions(num_threads=n))._max_pixels for n in (1, 2, 16)
    )
    assert (two, many) == (2 * one, 4 * one)


def test_a_strict_decode_keeps_nothing_whatever_it_finds() -> None:
    sound = encode(photo(HEIGHT, WIDTH))
    tables = sound.index(b"\xff\xc4") + 5  # how many codes there are of each length
    files = [sound, sound[:-400] + b"\xff\xd9", sound[:-2], sound[:700]]
    files += [sound[:tables] + bytes([255]) * 16 + sound[tables + 16 :], sound[:20], b""]

    def decode(times: int) -> int:
        found = [strict_decode_error(data) for data in files * times]
        assert [error is None for error in found] == [True, *[False] * 6] * times
        return bytes_in_use()

    before = decode(2)
    assert decode(10) - before < 70 * 1_000  # a decompressor alone takes 4 kB


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("integrity", ["off", "fast"])
def test_a_picture_that_is_given_up_half_way_is_freed(
    decoder: Decoder, integrity: IntegrityLevel, *, progressive: bool
) -> None:
    sound = encode(photo(HEIGHT, WIDTH), progressive=progressive)
    broken = [sound[:at] + b"\xff\x14" + sound[at + 2 :] for at in (-40, -2000)]
    broken += [sound[:-2] + end for end in (b"\xff\xae", b"\xff\xc4\xff\xff\xff\xd9")]
    restarts = encode(photo(HEIGHT, WIDTH), progressive=progressive, restart_marker_rows=1)
    broken += [restarts[:at] + b"\xff\x14" + restarts[at + 2 :] for at in (-40, -2000)]
    broken += [restarts[:-2] + b"\xff\x14\xff\xd0\xff\xd9"]  # when nothing is missing any more

    def decode(times: int) -> int:
        for data in broken * times:
            image = EncodedImage(0, data)
            screen(image, Limits(integrity=integrity))
            assert list(decoded(decoder, [image])) == [(1, 0)]
            assert image.status is (Status.OK if integrity == "off" else Status.DAMAGED)
        return bytes_in_use()

    before = decode(2)
    assert decode(10) - before < 5 * HEIGHT * WIDTH * 3  # of 70 pictures
