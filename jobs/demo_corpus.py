"""A small corpus for the demo: photographs compressed in many ways, and broken files.

The photographs come from the scikit-image and scikit-learn packages, so nothing is downloaded.
"""

import base64
import functools
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import turbojpeg
from PIL import Image

from pipeline.degrade import RgbImage, compress
from pipeline.jpeg_scan import scan_jpeg

# (package, path in it). Only colour photographs: the packages' drawings, textures and gray pictures
# have no ImageNet class.
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
# ((height, width), share); most of ImageNet is 375x500 or 500x375.
_SIZES = (
    ((375, 500), 0.40),
    ((500, 375), 0.22),
    ((333, 500), 0.12),
    ((500, 333), 0.06),
    ((240, 320), 0.06),
    ((97, 131), 0.05),
    ((768, 1024), 0.05),
    ((1200, 900), 0.04),
)
_SUBSAMPLINGS = (("4:2:0", 0.7), ("4:4:4", 0.15), ("4:2:2", 0.1), ("4:4:0", 0.05))
_ORIENTATION_TAG = 0x0112  # EXIF

T = TypeVar("T")

# A 48x32 crop of the astronaut, samples x 16, quality 30, 4:2:0, written by libjpeg-turbo 3.1's
# tj3Compress12; decodes with tj3Decompress12. The `turbojpeg` package cannot write 12 bits.
_TWELVE_BIT_JPEG_BASE85 = """
|JeWF01!$>Nk#wx0RR9200961|JwjV02>k%7Zed27Zw*D92+1gLMtdGB`8rkJupIGRb^yfRb5+Zc$tA}agcLcU4^xVke;Kft*d
8%yve$z$C;?Br2pFhLjfEf9w;LyPAe-;q;6eqq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq
@@4B01*rTAOJ7}0U`hb5di}c0sq7R8vp<T0s{d60000000000000OH2MPiM1qT1b04)#z0Rsa91q1>C1poj5000010s{mE1`!7
#00<HjF$okRQ8GamGhuOo!T-bn76AbP0RR910000000000000FB1pmYUC=mbx0RsUB2LS*800000000330{{dO1rie>F>#?3B0
*u1vBB~G+5ij#0RRFK0}%i}05>%wQ0lfOn_U-7D2_{$MWw$rnBWz66oljq4aohFJb}XFZn<*n_3K!(?#JEKDK{NE`4oC{ag31}
h|U6qDU_)nAikV7Ho{KF$!3?0iq4|g)%!+Fm!TrNOp#AASQ&AS^J+(NKV>CBSpDN12OgbVl4`z>Yqp^=t5tR&RTl}mUAJ__Ey+
a4q2A)033Ol_2J)8^@%lK=5c<?N8A6B2$n~n-HDh)ljz5*cu%+HsmA_JI^tG!r+G&n*{XUB=gt&k=JtzPHjmmeyC;f>0-s@$o-
Fn@jX<c>`RhW{5ih`v;0a27fiC0Po%_;!nsXa+PatYzu&bqF>Gtw%g73!<^I@2aQYq*_^$^>@S??cW8+X0|_{v)StvyK(FtR{g
>kD@bgyO!po+*b+<4$*4xD5;G#*1ga@D^p~JfZ1$y4b}1|VgQ^=G}{2TZ+^7h#06Ba1W`Tc^{kKT7MEYzcX8Dc^VW4$sq}<*JC
4PsO-j_3l&qYDJkz-P3m@Pe7bEeTircA^fZ6IxicjVJjyM6mCi!8%G;>I9OWy6JN}*P7r(%kII(~iJYEwunM|rgXT3fEV;`$EZ
32&$ZNC!HhO(VBClC-B_2>$?_Ti6K}(H2f%e>+sXsyBp+5&7cv7}5?!%{q;8!JT(slba7jw&_F%I&*+sQTzcU53}H8>>$oaeON
0T@$*EzEV#4+pKH>oRB82P6i;?Uw-VBtZN^s8k~6Z&AYlAR{qR58T1jkkXD<8IdM|3Lu8+`T(5-b=WGAyuklKnIs31C^lJc2SU
1X@^GJ1gu0ZCId8?#&aE#?H=mfce2)2&LQ&3-!NFAYn<QqbyFg@TnKN(2-wBphxw2ZgVr@en)_jAU><>l`yRy})+#t8HranL(*
&w8b|38IV`j^lHqxOsK(VemkiL`e2Zdd|(U`4t(D&_N}F=H_~q!eLXe1PRW4P8k}lF+<S_Ol9v}Kf;vG+8(?EA7y}$uy5#jh<~
rb(C*86vtD<X)DpabKs};9Yykn_GIBTf>{y^`>o?5+5d8X1XVVu;9YV2~Pi7mF>Qq)TU6xxJFytbI>_@!YbL@a#1$>19;8bzIC
n;R?l@lD?Ai!58T1QS;Qb{lV@$DPk`D3V8<`N`u3-iC;(dB(!Au_uVrlU`*s@0-mFqw1BO@o5uTK&Vp|tgaK}WTgG1kgOj$N`c
)ci9Y70Axi0jp3(sr`FTDE4zwk+L~lZ3zyH|
"""


def build_demo_corpus(folder: Path, *, num_photos: int, seed: int = 0) -> int:
    """Write `num_photos` JPEGs and some broken files to `folder`; equal for equal seeds.

    Photographs go to a subfolder named after the picture they were cut from, such as
    `coffee/0012_q35_progressive.jpg`; broken files go to `broken/`. Existing files of the same
    names are replaced; others are kept.

    Returns:
        The number of broken files.

    Raises:
        FileNotFoundError: scikit-image or scikit-learn is not installed with its pictures.
    """
    rng = np.random.default_rng(seed)
    for index in range(num_photos):
        # One of each rare kind near the start, so that a small corpus contains them too.
        kind = {3: "grayscale", 5: "progressive", 7: "cmyk", 9: "exif_rotated"}.get(index)
        kind = kind or _draw(rng, (("baseline", 0.82), ("progressive", 0.12), ("grayscale", 0.06)))
        name, rgb = random_crop(rng, *_draw(rng, _SIZES))
        quality, subsampling = int(rng.integers(5, 96)), _draw(rng, _SUBSAMPLINGS)
        file_name = f"{index:04d}_q{quality:02d}_{kind}.jpg"
        _write(folder / name / file_name, _encode_kind(rgb, quality, subsampling, kind))
    _, rgb = random_crop(rng, 375, 500)
    broken = broken_files(compress(rgb, 75), rng)
    for name, data in broken.items():
        _write(folder / "broken" / name, data)
    return len(broken)


def random_crop(rng: np.random.Generator, height: int, width: int) -> tuple[str, RgbImage]:
    """A random window of a random photograph, scaled to the given size.

    The window is 60 to 100 % of the largest one of its shape, so that the subject stays visible.

    Returns:
        (the photograph's name, uint8 (height, width, 3)).
    """
    names = sorted(PHOTOGRAPHS)
    name = names[int(rng.integers(len(names)))]
    photo = photograph(name)
    scale = min(photo.width / width, photo.height / height) * rng.uniform(0.6, 1.0)
    window_width, window_height = width * scale, height * scale
    left = rng.uniform(0, photo.width - window_width)
    top = rng.uniform(0, photo.height - window_height)
    box = (left, top, left + window_width, top + window_height)
    cut = photo.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=None)
    return name, np.asarray(cut)


def broken_files(jpeg: bytes, rng: np.random.Generator) -> dict[str, bytes]:
    """One file for each common kind of damage and of wrong file type, made from an intact RGB JPEG.

    Returns:
        file name -> bytes. About half can be decoded: the truncated ones, `cut_and_closed`,
        `bit_flipped` and `zero_hole` to damaged pictures, `arithmetic` and the `*_named` PNG and
        WebP to sound ones.
    """
    scan = scan_jpeg(jpeg).scan_offset
    middle = (scan + len(jpeg)) // 2
    hole = min(2000, len(jpeg) - 2 - middle)
    with Image.open(io.BytesIO(jpeg)) as image:
        picture = image.convert("RGB")
    rgb = np.asarray(picture)
    return {
        "truncated_at_10_percent.jpg": jpeg[: max(scan + 1, len(jpeg) // 10)],
        "truncated_at_50_percent.jpg": jpeg[:middle],
        "truncated_at_99_percent.jpg": jpeg[: len(jpeg) * 99 // 100],
        "cut_and_closed.jpg": jpeg[:middle] + b"\xff\xd9",
        "header_only.jpg": jpeg[:scan],
        "half_a_header.jpg": jpeg[: scan // 4],
        "bit_flipped.jpg": flip_bits(jpeg, rng, flips=40, start=scan),
        "zero_hole.jpg": jpeg[:middle] + bytes(hole) + jpeg[middle + hole :],
        "zero_bytes.jpg": b"",
        "zeros.jpg": bytes(4096),
        "html_named.jpg": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n",
        "png_named.jpg": _save(picture, "PNG"),
        "webp_named.jpg": _save(picture, "WEBP", quality=80),
        "gif_named.jpg": _save(picture, "GIF"),
        "twelve_bit.jpg": twelve_bit_jpeg(),
        "arithmetic.jpg": turbojpeg.compress(rgb, 75, turbojpeg.SAMP.Y420, arithmetic=True),
        "huge_65500x65500.jpg": with_declared_size(compress(rgb[:16, :16], 75), 65500, 65500),
    }


def flip_bits(data: bytes, rng: np.random.Generator, *, flips: int, start: int = 0) -> bytes:
    """Flip `flips` random bits from byte `start` up to the last two bytes (a JPEG's EOI)."""
    damaged = np.frombuffer(data, dtype=np.uint8).copy()
    at = rng.integers(start, len(data) - 2, size=flips)
    np.bitwise_xor.at(
        damaged, at, np.left_shift(1, rng.integers(0, 8, size=flips)).astype(np.uint8)
    )
    return damaged.tobytes()


def with_declared_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The JPEG with another size in its frame header (T.81 B.2.2) than its scan has."""
    pos = 2
    while not (0xC0 <= jpeg[pos + 1] <= 0xCF and jpeg[pos + 1] not in (0xC4, 0xC8, 0xCC)):
        pos += 2 + int.from_bytes(jpeg[pos + 2 : pos + 4], "big")
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return jpeg[: pos + 5] + size + jpeg[pos + 9 :]


def twelve_bit_jpeg() -> bytes:
    """A genuine 12-bit extended sequential JPEG (SOF1), 48x32, 4:2:0."""
    return base64.b85decode("".join(_TWELVE_BIT_JPEG_BASE85.split()))


def _encode_kind(rgb: RgbImage, quality: int, subsampling: str, kind: str) -> bytes:
    if kind in ("baseline", "progressive"):
        return compress(rgb, quality, subsampling, progressive=kind == "progressive")
    image = Image.fromarray(rgb)
    if kind == "grayscale":
        return _save(image.convert("L"), "JPEG", quality=quality)
    if kind == "cmyk":
        return _save(image.convert("CMYK"), "JPEG", quality=quality)
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = 6  # viewers rotate it by 90 degrees clockwise
    return _save(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=quality, exif=exif)


def _save(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@functools.cache
def photograph(name: str) -> Image.Image:
    """One of `PHOTOGRAPHS`, RGB. Raises FileNotFoundError when its package is not installed."""
    package, path = PHOTOGRAPHS[name]
    # Not through an import of the package, which takes seconds.
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    source = Path(folders[0], path) if folders else None
    if source is None or not source.is_file():
        raise FileNotFoundError(
            f"the photograph {path} of {package} is missing: install scikit-image and scikit-learn"
        )
    with Image.open(source) as image:
        return image.convert("RGB")


def _draw(rng: np.random.Generator, weighted: tuple[tuple[T, float], ...]) -> T:
    values, weights = zip(*weighted, strict=True)
    return values[int(rng.choice(len(values), p=weights))]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
