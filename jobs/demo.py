"""`afd demo`: labels a small corpus of real photographs and broken files, and shows the result.

`make demo` runs it. It needs the `demo` extra and downloads nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.checked_settings import CheckedSettings
from jobs.command_line import parse
from jobs.demo_corpus import build_demo_corpus
from jobs.exits import EXIT_COMPLETE, EXIT_FAILED, ignoring_closed_stdout, print_answer
from jobs.label import label
from jobs.labels_view import open_labels
from jobs.run_job import run_job
from jobs.settings import LabelSettings, require_not_negative, setting
from pipeline.output import LABELS, OutputFolder

_BACKBONE = "timm:tf_efficientnet_lite0"  # a package of the demo extra contains its weights
_MARKER = ".afd-demo"

FIRST_ROWS = """
    SELECT parse_filename(uri) AS file, status, jpeg_quality AS quality, label_name,
           round(confidence, 2) AS confidence
    FROM labels ORDER BY uri LIMIT 8
"""
BY_QUALITY = """
    SELECT (jpeg_quality // 20) * 20 AS quality_from, count(*) AS images,
           round(avg(confidence), 3) AS mean_confidence,
           count(*) FILTER (confidence < 0.5) AS below_one_half
    FROM labels WHERE jpeg_quality IS NOT NULL AND label IS NOT NULL
    GROUP BY ALL ORDER BY ALL
"""
NOT_OK = """
    SELECT parse_filename(uri) AS file, status, error
    FROM labels WHERE status <> 'ok' ORDER BY uri
"""


@dataclass(frozen=True, kw_only=True)
class DemoSettings(CheckedSettings):
    """Label a small corpus of real photographs and show what was found."""

    output: str = setting(
        "demo-output", "folder for the corpus and the labels; recreated on every run"
    )
    num_photos: int = setting(300, "number of crops of photographs in the corpus")

    def check_values(self) -> None:
        require_not_negative(self, "num_photos")  # before the last run's folder is emptied


def demo(settings: DemoSettings) -> int:
    """Build the corpus, label it and print some queries' results. Returns an exit code.

    Raises ValueError when the output folder holds something else.
    """
    folder = Path(settings.output)
    _recreate(folder)
    corpus = folder / "corpus"
    num_broken = build_demo_corpus(corpus, num_photos=settings.num_photos)
    print_answer(f"corpus: {settings.num_photos} photographs and {num_broken} broken files")
    summary = label(
        LabelSettings(
            input=str(corpus),
            output=str(folder / "run"),
            backbone=_BACKBONE,
        )
    )
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count)
    print_answer(f"\n{summary.images} rows: {counts}")
    print_answer(f"{summary.images_per_s} images/s after {summary.start_up_s:.1f} s of start-up")
    output = OutputFolder(summary.output)
    print_answer(f"labels: {output.path / LABELS}")
    with open_labels(output) as connection, ignoring_closed_stdout():
        for title, query in (
            ("The first rows", FIRST_ROWS),
            ("Confidence by JPEG quality", BY_QUALITY),
            ("What is not ok, and why", NOT_OK),
        ):
            print(f"\n{title}:")
            connection.sql(query).show(max_width=120, max_rows=40)
    return EXIT_COMPLETE if summary.complete else EXIT_FAILED


def _recreate(folder: Path) -> None:
    """Empty the folder if it is the demo's own. Raises ValueError if it is not."""
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise ValueError(f"{str(folder)!r} holds something else: give another --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def main(arguments: Sequence[str]) -> int:
    """`afd demo`: exit code 0 when the corpus is labelled, 1 when it is not, 2 for bad usage."""
    settings = parse(DemoSettings, arguments, prog="afd demo")
    return run_job("afd demo", lambda: demo(settings), errors=(RuntimeError,))
