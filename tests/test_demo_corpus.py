import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from decoding import decode_all, screened
from jpegs import encode, photo
from PIL import Image

from jobs.demo_corpus import broken_files, build_demo_corpus, random_crop
from pipeline.decode import Decoder
from pipeline.file_format import sniff_format
from pipeline.jpeg_scan import JpegFormatError, JpegHeader, scan_jpeg
from pipeline.records import Status
from pipeline.screening.jpeg_integrity import check_integrity
from pipeline.screening.screen import Limits
from pipeline.screening.strict_decode import strict_decode_error

NUM_PHOTOS = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert build_demo_corpus(folder, num_photos=NUM_PHOTOS, seed=3) == 17
    return folder


def headers(corpus: Path) -> dict[Path, JpegHeader]:
    paths = sorted(p for p in corpus.rglob("*.jpg") if p.parent.name != "broken")
    return {path: scan_jpeg(path.read_bytes()) for path in paths}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_kind_is_there_and_counted(corpus: Path) -> None:
    photos = headers(corpus)
    broken = list((corpus / "broken").iterdir())
    assert (len(photos), len(broken)) == (NUM_PHOTOS, 17)
    for kind in ("baseline", "progressive", "grayscale", "cmyk", "exif_rotated"):
        assert any(path.stem.endswith(kind) for path in photos)


def test_every_photograph_is_sound_and_as_its_name_says(corpus: Path) -> None:
    components = {"grayscale": 1, "cmyk": 4}
    for path, header in headers(corpus).items():
        data = path.read_bytes()
        _, quality, kind = path.stem.split("_", 2)
        assert check_integrity(data, header, "full") is None
        assert header.quality == int(quality[1:])
        assert header.components == components.get(kind, 3)
        assert header.progressive == (kind == "progressive")
        with Image.open(io.BytesIO(data)) as image:
            assert image.getexif().get(0x0112, 1) == (6 if kind == "exif_rotated" else 1)


def test_photographs_vary_as_a_crawl_does(corpus: Path) -> None:
    found = list(headers(corpus).values())
    qualities = [header.quality or 0 for header in found]
    assert min(qualities) < 20
    assert max(qualities) > 80
    assert len({header.subsampling for header in found}) >= 4
    assert {header.width > header.height for header in found} == {True, False}
    assert len({path.parent.name for path in headers(corpus)}) >= 5
    areas = [header.width * header.height for header in found]
    assert np.median(areas) == pytest.approx(500 * 375, rel=0.2)


def test_same_seed_same_files(corpus: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    build_demo_corpus(again, num_photos=NUM_PHOTOS, seed=3)
    assert digests(again) == digests(corpus)
    build_demo_corpus(other, num_photos=NUM_PHOTOS // 6, seed=4)
    photographs = [
        {digest for name, digest in digests(made).items() if not name.startswith("broken")}
        for made in (other, corpus)
    ]
    assert photographs[0].isdisjoint(photographs[1])


def test_no_photos_is_allowed(tmp_path: Path) -> None:
    build_demo_corpus(tmp_path, num_photos=0)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_crops_have_the_shape_asked_for_and_natural_content() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((375, 500), (500, 333), (20, 300), (900, 700)):
        name, rgb = random_crop(rng, height, width)
        assert name
        assert (rgb.shape, rgb.dtype) == ((height, width, 3), np.uint8)
        assert rgb.std() > 10


@pytest.fixture(scope="module")
def broken() -> dict[str, bytes]:
    return broken_files(encode(photo(375, 500)), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("half_a_header.jpg", "ends"),
        ("zero_bytes.jpg", "empty"),
        ("zeros.jpg", "zeros"),
        ("html_named.jpg", "html"),
        ("png_named.jpg", "png"),
        ("webp_named.jpg", "webp"),
        ("gif_named.jpg", "gif"),
    ],
)
def test_no_jpeg(broken: dict[str, bytes], name: str, reason: str) -> None:
    with pytest.raises(JpegFormatError, match=reason):
        scan_jpeg(broken[name])


def test_damaged_streams(broken: dict[str, bytes]) -> None:
    for name in ("truncated_at_10_percent", "truncated_at_50_percent", "truncated_at_99_percent"):
        assert not scan_jpeg(broken[f"{name}.jpg"]).complete
    assert not scan_jpeg(broken["header_only.jpg"]).complete
    for name in ("bit_flipped.jpg", "zero_hole.jpg", "cut_and_closed.jpg"):
        assert scan_jpeg(broken[name]).complete
        assert strict_decode_error(broken[name])


def test_odd_but_genuine_jpegs(broken: dict[str, bytes]) -> None:
    twelve = broken["twelve_bit.jpg"]
    assert scan_jpeg(twelve).precision_bits == 12
    assert "precision 12" in (strict_decode_error(twelve) or "")
    arithmetic = broken["arithmetic.jpg"]
    assert scan_jpeg(arithmetic).sof_marker == 0xC9
    assert strict_decode_error(arithmetic) is None
    huge = broken["huge_65500x65500.jpg"]
    assert (scan_jpeg(huge).width, scan_jpeg(huge).height) == (65500, 65500)
    assert len(huge) < 1500


def test_false_names_hold_real_pictures(broken: dict[str, bytes]) -> None:
    for name in ("png", "webp", "gif"):
        data = broken[f"{name}_named.jpg"]
        assert sniff_format(data) == name
        with Image.open(io.BytesIO(data)) as image:
            assert image.convert("RGB").size == (500, 375)


# name -> status at the levels "off", "fast" and "full", and what the error says.
OK, DAMAGED, REJECTED = Status.OK, Status.DAMAGED, Status.REJECTED
FATES: dict[str, tuple[Status, Status, Status, str]] = {
    "truncated_at_10_percent.jpg": (OK, DAMAGED, DAMAGED, "^truncated: no end-of-image marker"),
    "truncated_at_50_percent.jpg": (OK, DAMAGED, DAMAGED, "^truncated: no end-of-image marker"),
    "truncated_at_99_percent.jpg": (OK, DAMAGED, DAMAGED, "^truncated: no end-of-image marker"),
    "cut_and_closed.jpg": (OK, OK, DAMAGED, "premature end of data"),
    "header_only.jpg": (REJECTED, REJECTED, REJECTED, "^header only: "),
    "half_a_header.jpg": (REJECTED, REJECTED, REJECTED, "^JPEG ends inside segment"),
    "bit_flipped.jpg": (OK, OK, DAMAGED, "^Corrupt JPEG data"),
    "zero_hole.jpg": (OK, DAMAGED, DAMAGED, "^zero-filled hole at byte|Corrupt JPEG data"),
    "zero_bytes.jpg": (REJECTED, REJECTED, REJECTED, r"^empty file \(0 bytes\)$"),
    "zeros.jpg": (REJECTED, REJECTED, REJECTED, "the content is zeros$"),
    "html_named.jpg": (REJECTED, REJECTED, REJECTED, "the content is html$"),
    "png_named.jpg": (OK, OK, OK, ""),
    "webp_named.jpg": (OK, OK, OK, ""),
    "gif_named.jpg": (REJECTED, REJECTED, REJECTED, "the content is gif$"),
    "twelve_bit.jpg": (REJECTED, REJECTED, REJECTED, "^12-bit JPEG"),
    "arithmetic.jpg": (OK, OK, OK, ""),
    "huge_65500x65500.jpg": (REJECTED, REJECTED, REJECTED, "4290250000 pixels.*100000000$"),
}


@pytest.mark.parametrize(("place", "level"), [(0, "off"), (1, "fast"), (2, "full")])
def test_every_broken_file_gets_its_status(small_decoder: Decoder, place: int, level: str) -> None:
    files = broken_files(encode(photo(375, 500)), np.random.default_rng(0))
    assert files.keys() == FATES.keys()
    images = screened(files.values(), Limits(integrity=level))  # type: ignore[arg-type]
    found = decode_all(small_decoder, images)
    for name, image in zip(files, images, strict=True):
        expected, message = FATES[name][place], FATES[name][3]
        assert (name, image.status) == (name, expected)
        assert (image.row in found) == (expected != REJECTED)
        if expected == OK:
            assert image.error is None
        else:
            assert re.search(message, image.error or ""), (name, image.error)
            assert "\n" not in (image.error or "")
