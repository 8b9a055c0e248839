"""How a run went: nothing is lost between the parts and the charts."""

from pathlib import Path

import pytest
from outputs import Made, write_output

from jobs.labels_view import list_parts
from jobs.reporting.run import STAGES, PartTimes, read_run, stage_totals, timeline


def part(began_at: float | None, *, rows: int = 100, model_s: float = 9.0) -> PartTimes:
    return PartTimes(rows, began_at, (0.5, 0.25, 0.0, model_s, 0.25))


def test_a_runs_facts(tmp_path: Path) -> None:
    run = read_run(write_output(tmp_path, Made(images=95, images_per_shard=20)))
    assert [path.name for path in run.parts] == [f"part-{k:05d}.parquet" for k in range(5)]
    assert (run.rows, run.planned_images, run.damaged) == (95, 95, {})
    assert run.facts["backbone"] == "resnet50"
    assert run.devices == {"cpu, float32": 5}
    assert run.times[-1].rows == 15


def test_a_part_that_is_not_whole_is_named_and_left_out(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=95, images_per_shard=20))
    paths = list_parts(output)
    paths[0].write_bytes(paths[0].read_bytes()[:-5])
    paths[1].unlink()
    run = read_run(output)
    assert run.parts == paths[2:]
    assert list(run.damaged) == ["part-00000.parquet"]
    assert (run.rows, run.planned_images) == (55, 95)


def test_an_output_without_a_plan(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=5), plan=False)
    assert read_run(output).planned_images is None
    output.plan.write_bytes(b"not a plan")
    assert read_run(output).planned_images is None


def test_stages_add_up() -> None:
    rows = stage_totals([part(0.0), part(5.0, model_s=4.0)])
    assert [row["stage"] for row in rows] == list(STAGES)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    model = rows[STAGES.index("model")]
    assert (model["seconds"], model["ms_per_image"]) == (13.0, 65.0)
    assert sum(row["seconds"] for row in stage_totals([])) == 0


def test_two_workers_are_twice_as_fast() -> None:
    one = timeline([part(1000.0), part(1010.0)])
    two = timeline([part(1000.0), part(1000.0), part(1010.0), part(1010.0)])
    assert {round(row["images_per_s"], 6) for row in one} == {10}
    assert {round(row["images_per_s"], 6) for row in two} == {20}
    assert one[-1]["to_s"] == pytest.approx(20)
    assert one[0]["model"] == pytest.approx(0.9)


def test_every_image_is_somewhere() -> None:
    parts = [part(1000.0 + 3.7 * k, rows=50 + k, model_s=1.0 + k % 5) for k in range(40)]
    rows = timeline(parts)
    images = sum(row["images_per_s"] * (row["to_s"] - row["from_s"]) for row in rows)
    assert images == pytest.approx(sum(p.rows for p in parts))
    for row in rows:
        assert sum(row[stage] for stage in STAGES) == pytest.approx(1)


@pytest.mark.parametrize("pause_s", [0.0, 5.0, 1e6])
def test_the_time_between_two_runs_is_left_out(pause_s: float) -> None:
    before = [part(1000.0), part(1002.0)]
    after = [part(1012.0 + pause_s), part(1013.0 + pause_s)]
    rows = timeline([*after, *before])  # a continuation may label any shard
    assert rows[-1]["to_s"] == pytest.approx(12 + 11)
    assert all(row["images_per_s"] > 0 for row in rows)


def test_parts_that_do_not_say_when() -> None:
    assert timeline([]) == []
    assert timeline([part(1000.0), part(None)]) == []


def test_a_part_of_no_time_at_all() -> None:
    (*_, last) = timeline([PartTimes(10, 1000.0, (0.0,) * len(STAGES))])
    assert last["images_per_s"] > 0
