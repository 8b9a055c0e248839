"""`python -m fuzz.jpeg_scan [libFuzzer's flags] CORPUS` (with tests/ on PYTHONPATH).

    PYTHONPATH=.:tests python -m fuzz.jpeg_scan -max_total_time=600 -max_len=65536 found/

Needs atheris (`pip install atheris`). CORPUS is a folder that keeps what widens the coverage; it is
begun with one file of every kind of `damage.KINDS`. A finding ends the run and is written beside it
as crash-*; mend it, and keep it as a kind of damage or a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from pipeline.jpeg_scan import JpegFormatError, scan_jpeg
    from pipeline.screening.jpeg_integrity import check_integrity

from damage import KINDS, damaged

_MOST_SEED_BYTES = 1 << 16


def one_input(data: bytes) -> None:
    """What may come out of any bytes: a header that is consistent, or the error made for it."""
    try:
        header = scan_jpeg(data)
    except JpegFormatError as error:
        line = str(error)
        assert line, "an error without a word"
        assert "\n" not in line, "an error of several lines"
        return
    assert 0 < header.width <= 65535
    assert 0 < header.height <= 65535
    assert 0 < header.scan_offset <= len(data)
    assert header.quality is None or 1 <= header.quality <= 100
    if header.width * header.height > 100_000_000:
        return
    reason = check_integrity(data, header, "fast")
    assert reason is None or (reason and "\n" not in reason)


def main() -> None:
    corpus = Path(sys.argv[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        seed = damaged(kind, 0)
        if len(seed) <= _MOST_SEED_BYTES:
            (corpus / f"seed-{kind.replace('/', '_').replace(' ', '-')}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
