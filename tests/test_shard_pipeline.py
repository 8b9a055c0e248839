"""What a worker loads, from what it is told of the run and the pool."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelers import make_labeler, planned_settings

from jobs.model import Model, load_model
from jobs.settings import LabelSettings


@pytest.mark.usefixtures("one_thread")
def test_a_worker_has_its_share_of_the_machine_and_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def noted(settings: LabelSettings, **share: Any) -> Model:
        asked.append((settings.device, share))
        return load_model(settings, **share)

    monkeypatch.setattr("jobs.labelling.shard_pipeline.load_model", noted)
    (tmp_path / "in").mkdir()
    settings = planned_settings(tmp_path / "in", tmp_path / "out")
    settings = replace(settings, device="auto", read_threads=3)
    labeler = make_labeler(settings, num_threads=2, num_workers=2, device="cpu")
    assert asked == [("cpu", {"num_threads": 2, "images_to_label": 2})]  # of five
    assert labeler.pipeline.read(labeler.plan.shard(0))._num_threads == 3
