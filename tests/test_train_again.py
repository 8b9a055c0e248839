"""`afd train` on an output that has a run: for more steps, with other settings, damaged."""

import json
import shutil
from pathlib import Path

import pytest
from training_runs import make_collection, records, train


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("sound"))


def test_a_finished_run_goes_on_for_more_steps(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(sound, photos)
    for steps in (2, 3):
        assert train(photos, output, "--max-steps", str(steps)) == 0
    assert "has changed" not in capsys.readouterr().err
    shutil.copy(sound / "0.jpg", photos / "new.jpg")
    assert train(photos, output, "--max-steps", "4") == 0
    told = capsys.readouterr().err
    assert "for 4 steps instead of 3" in told
    assert "the collection has changed since the run started (16 images, now 17)" in told
    assert [r["step"] for r in records(output, "step")] == [1, 2, 3, 4]
    card = json.loads((output / "afd.json").read_text())
    assert (card["settings"]["max_steps"], card["earlier_max_steps"]) == (4, [2, 3])
    assert train(photos, output, "--max-steps", "3") == 1
    assert "a run of 4 steps, more than --max-steps 3" in capsys.readouterr().err


def test_a_run_with_another_number_of_held_out_images_says_which_it_was(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(sound, tmp_path, "--max-steps", "1") == 0
    assert train(sound, tmp_path, "--max-steps", "1", "--held-out-images", "auto") == 1
    assert "held-out-images was 5, is now 'auto'. Use the same" in capsys.readouterr().err


def test_what_a_finished_run_has_lost_is_made_again(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("--max-steps", "1", "--flip-passes", "1", "--flip-images", "0")
    checkpoint, card = tmp_path / "afd.safetensors", tmp_path / "afd.json"
    assert train(sound, tmp_path, *short) == 0
    finished = checkpoint.read_bytes(), json.loads(card.read_text()).keys()
    for lose in (checkpoint.unlink, lambda: card.write_text('{"ended"')):
        lose()
        assert train(sound, tmp_path, *short) == 0
        assert "nothing to do" not in capsys.readouterr().err
        assert (checkpoint.read_bytes(), json.loads(card.read_text()).keys()) == finished
    (tmp_path / "run.json").unlink()
    assert train(sound, tmp_path, *short) == 1
    assert "holds a run but no run.json: choose another --output" in capsys.readouterr().err
    assert checkpoint.read_bytes() == finished[0]
