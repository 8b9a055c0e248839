"""The figures of the page, against rows that are counted by hand; see `outputs.py` for the rows."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from outputs import Made, rewrite, write_output

from jobs.labels_view import connect, list_parts
from jobs.quantities import percent
from jobs.reporting.compare import Comparison, shifts
from jobs.reporting.compare_content import change
from jobs.reporting.content import labels, run_facts, summary
from jobs.reporting.queries import NOW, Distributions, Findings, Row, Trust, find, load
from jobs.reporting.run import Run, read_run
from jobs.reporting.statistics import QUALITIES
from pipeline.output import OutputFolder
from pipeline.records import STATUSES

TRUST = Trust(sure=0.6, at_risk=0.3)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """420 rows in three parts. One image in five is not ok; one in three has no flip probability,
    as if the checkpoint had got its flip model during the run."""
    made = Made(images=420, images_per_shard=150, bad_share=0.2)
    output = write_output(tmp_path_factory.mktemp("out"), made)

    def forget(row: Row) -> None:
        row["flip_probability"] = None

    rewrite(output, 0, forget)
    return output


@pytest.fixture(scope="module")
def rows(output: OutputFolder) -> list[Row]:
    found: list[Row] = pq.read_table(output.labels).to_pylist()
    return found


@pytest.fixture(scope="module")
def found(output: OutputFolder) -> Findings:
    with connect() as connection:
        load(connection, NOW, list_parts(output))
        return find(connection, output, TRUST, gallery=0)


@pytest.fixture(scope="module")
def run(output: OutputFolder) -> Run:
    return read_run(output)


def known(rows: list[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows if row[name] is not None])


def test_the_cards_say_what_the_rows_say(found: Findings, run: Run, rows: list[Row]) -> None:
    cards = {name: (value, note) for value, name, note in summary(found, run, TRUST)["cards"]}
    labelled = len(known(rows, "label"))
    trusted = sum(
        row["status"] == "ok"
        and row["confidence"] >= TRUST.sure
        and (row["flip_probability"] or 0) < TRUST.at_risk
        for row in rows
    )
    flips = known(rows, "flip_probability")
    qualities = known(rows, "jpeg_quality")
    assert cards["images"] == ("420", f"{known(rows, 'num_bytes').sum() / 1e6:.1f} MB")
    assert cards["labels to trust"] == (percent(trusted / labelled), f"{trusted} labels")
    left = 420 - labelled
    assert cards["not labelled"] == (percent(left / 420), f"{left} rejected or unreadable")
    assert cards["damaged"][0] == str(sum(row["status"] == "damaged" for row in rows))
    median = int(np.quantile(qualities, 0.5, method="inverted_cdf"))
    assert cards["median JPEG quality"] == (str(median), f"{len(qualities)} known")
    share = (flips >= TRUST.at_risk).mean()
    assert cards["labels at risk"] == (percent(share), "flip probability 0.3 or more")
    confidence, angle = (np.median(known(rows, n)) for n in ("confidence", "drift_angle_deg"))
    assert cards["median confidence"][1] == f"of {labelled} labels"
    assert float(cards["median confidence"][0]) == pytest.approx(confidence, abs=0.01)
    assert float(cards["median drift angle"][0].rstrip("°")) == pytest.approx(angle, abs=0.02)


def test_every_status_and_every_reason_has_its_images(
    found: Findings, run: Run, rows: list[Row]
) -> None:
    made = summary(found, run, TRUST)
    statuses = [row["status"] for row in rows]
    assert [row["status"] for row in made["statuses"]] == list(STATUSES)
    for row in made["statuses"]:
        assert row["images"] == statuses.count(row["status"])
        assert row["share"] == row["images"] / 420
    errors = {row["status"]: set[str]() for row in rows if row["error"]}
    for row in rows:
        errors.get(row["status"], set()).add(row["error"])
    assert [row["status"] for row in made["reasons"]] == [s for s in STATUSES if s in errors]
    for reason in made["reasons"]:
        alone = len(errors[reason["status"]]) == 1
        assert reason["text"] in errors[reason["status"]] if alone else "…" in reason["text"]
    assert made["notices"] == []  # no image is missing


def test_a_run_that_lacks_images_says_how_many(found: Findings, run: Run) -> None:
    [(kind, text)] = summary(found, replace(run, planned_images=1421), TRUST)["notices"]
    assert kind == "bad"
    assert text.startswith("The run is not finished: 1,001 of 1,421 planned images have no row")


def test_classes_have_their_shares_of_the_labels(found: Findings, rows: list[Row]) -> None:
    numbers, counts = np.unique(known(rows, "label"), return_counts=True)
    frequent = sorted(zip(-counts, numbers, strict=True))
    made = labels(found, TRUST, 3)
    assert [row["label"] for row in made["labels"]] == [number for _, number in frequent[:3]]
    for row, (images, _) in zip(made["labels"], frequent, strict=False):
        assert row["share"] == -images / counts.sum()
        assert row["length"] == images / frequent[0][0]
    assert made["num_labels"] == len(numbers)
    assert made["unlisted"] == -sum(images for images, _ in frequent[3:])


def test_a_run_has_its_times(run: Run) -> None:
    """See `outputs._facts`: of 420 images, and 30.33 s of three shards, the last 10.5 s later."""
    made = run_facts(run)
    assert made["stage_rows"] == [
        ("read", "1.2 s", "4.0 %", "2.86"),
        ("decode", "3.3 s", "10.9 %", "7.86"),
        ("dct", "1.5 s", "4.9 %", "3.57"),
        ("model", "24 s", "80.1 %", "57.86"),
        ("rows", "0 s", "under 0.1 %", "0.07"),
    ]
    facts = {name: dict(table) for name, table in made["facts"]}["This run"]
    for which, seconds in (("first", 1_790_000_000), ("last", 1_790_000_010)):
        local = facts[f"{which} shard started"].rpartition(" ")[0]
        assert time.mktime(time.strptime(local, "%Y-%m-%d %H:%M:%S")) == seconds
    assert (facts["run id"], facts["parts"], facts["cpu, float32"]) == ("made", "3", "3 parts")


def distributions(*, drift: bool = True) -> Distributions:
    """Of one image."""
    one, none = np.zeros((2, QUALITIES, 2), np.int64)
    one[75, 1] = 1
    return Distributions(counts=[], labels=[], confidences=one, angles=one if drift else none)


def shift(band: int | None, drift_psi: float | None, confidence_psi: float, **images: int) -> Row:
    psi = {"drift_psi": drift_psi, "confidence_psi": confidence_psi}
    ks = {"drift_ks": 0.5, "confidence_ks": 0.5}
    return {"band": band, "before": 1000, "images": 1000, **psi, **ks, **images}


COMPARED = Comparison(
    before=distributions(),
    transitions=[
        {"before": before, "now": now, "images": images}
        for before, now, images in (
            *(("ok", "ok", 70), ("ok", "damaged", 5), ("ok", "rejected", 2), ("ok", None, 10)),
            *(("rejected", "ok", 3), (None, "ok", 1200)),
        )
    ],
    by_quality=[
        {"quality": 0, "images": 50, "changed": 10},
        {"quality": 75, "images": 26, "changed": 9},
    ],
    changes=[],
    examples=[],
    new_errors=[],
    shifts=[
        shift(None, 0.1234, 0.0567),
        shift(0, 0.0999, 0.25),
        shift(1, 0.1, 0.2499),
        shift(2, None, 5.0, before=99),
        shift(3, 5.0, 0.0, images=99),
        shift(4, 0.55, 0.57, before=100, images=100),
        shift(5, 0.0999, 0.1, before=100, images=100),
        shift(6, 0.30, 0.31, before=100),
    ],
)


def changes(found: Comparison = COMPARED, **now: bool) -> dict[str, Any]:
    run = Run(parts=[], damaged={}, planned_images=None, facts={}, devices={}, times=[])
    return change(found, distributions(**now), (run, run), "earlier")


def test_the_cards_of_what_has_changed() -> None:
    assert changes()["cards"] == [
        ("25.0 %", "labels changed", "19 of 76"),
        ("7", "new errors", "ok before, not ok now"),
        ("1,200", "images added", "80 in both"),
        ("10", "images removed", ""),
        ("0.123", "drift PSI", "all qualities"),
        ("0.057", "confidence PSI", "all qualities"),
    ]


def test_a_card_does_not_show_what_may_be_chance_as_a_shift() -> None:
    few = replace(COMPARED, shifts=[shift(None, 0.1234, 0.0567, before=400, images=400)])
    assert changes(few)["cards"][-2:] == [
        ("0.123", "drift PSI", "too few images to tell"),
        ("0.057", "confidence PSI", "all qualities"),
    ]
    unknown = replace(COMPARED, shifts=[shift(None, None, 5.0, before=99)])
    assert changes(unknown)["cards"][-2:] == [
        ("–", "drift PSI", "all qualities"),
        ("5.000", "confidence PSI", "too few images to tell"),
    ]
    none = replace(COMPARED, shifts=[])
    assert [card[0] for card in changes(none)["cards"][-2:]] == ["–", "–"]


def test_a_shift_is_called_what_its_psi_is_usually_called() -> None:
    """But not where a run has fewer than 100 images, or where chance alone may make such a PSI:
    27.9 (1/100 + 1/100) = 0.558 or less, and 27.9 (1/100 + 1/1000) = 0.307 or less."""
    found = [
        (row["band"], row["drift_verdict"], row["confidence_verdict"])
        for row in changes()["shifts"]
    ]
    assert found == [
        ("all", "moderate", "small"),
        ("1–5", "small", "large"),
        ("6–10", "moderate", "moderate"),
        ("11–15", "–", "few"),
        ("16–20", "few", "few"),
        ("21–25", "few", "large"),
        ("26–30", "small", "few"),
        ("31–35", "few", "large"),
    ]


def sample(random: np.random.Generator, images: int, *, stretch: float = 1.0) -> Distributions:
    """Of one population, with JPEG qualities as on the web: a few are frequent, most are rare."""
    qualities = [95, 92, 90, 85, 80, 75, 70, 60, 50, 40, 30, 20, 10]
    shares = [0.2, 0.05, 0.15, 0.13, 0.1, 0.15, 0.05, 0.04, 0.03, 0.03, 0.03, 0.02, 0.02]
    quality = random.choice(qualities, images, p=shares)
    bins = {
        "angles": 100 * stretch * random.gamma(4, 0.2 + 3 / np.sqrt(quality)),
        "confidences": 200 * random.beta(1.2, 0.8, images),
    }
    counts = {name: np.zeros((QUALITIES, 3000), np.int64) for name in bins}
    for name, values in bins.items():
        np.add.at(counts[name], (quality, values.astype(int)), 1)
    return Distributions(counts=[], labels=[], **counts)


def verdicts(before: Distributions, now: Distributions) -> list[str]:
    found = changes(replace(COMPARED, shifts=shifts(before, now)))["shifts"]
    return [row[f"{name}_verdict"] for row in found for name in ("drift", "confidence")]


@pytest.mark.parametrize("images", [500, 1000, 5000, 20_000])
def test_samples_of_one_population_have_not_shifted(images: int) -> None:
    random = np.random.default_rng(images)
    for _ in range(5):
        assert set(verdicts(sample(random, images), sample(random, images))) <= {"small", "few"}


def test_a_shift_shows_in_few_images_too() -> None:
    """Angles half as large again, in bands of 100 to 1000 images: as a rule, that is certain."""
    random = np.random.default_rng(0)
    found = shifts(sample(random, 5000), sample(random, 5000, stretch=1.5))
    made = changes(replace(COMPARED, shifts=found))["shifts"]
    drift = [row["drift_verdict"] for row in made if min(row["before"], row["images"]) > 110]
    assert len(drift) > 8
    assert drift.count("large") >= len(drift) - 1


def test_what_became_of_each_status() -> None:
    """A row for each status before, a column for each status now."""
    made = changes()
    assert made["status_names"] == ["ok", "damaged", "rejected", "unreadable", "absent"]
    assert made["transitions"] == [
        ("ok", "70", "5", "2", "0", "10"),
        ("damaged", "0", "0", "0", "0", "0"),
        ("rejected", "3", "0", "0", "0", "0"),
        ("unreadable", "0", "0", "0", "0", "0"),
        ("absent", "1,200", "0", "0", "0", ""),
    ]


def test_what_cannot_be_compared_is_told() -> None:
    assert changes()["notices"] == []
    [told] = changes(replace(COMPARED, transitions=COMPARED.transitions[-1:]))["notices"]
    assert told.startswith("The runs have no URI in common")
    without = replace(COMPARED, before=distributions(drift=False))
    for notices in (changes(drift=False)["notices"], changes(without)["notices"]):
        assert notices == ["One of the runs did not measure drift, so its shift is not known."]
    neither = "Neither run measured drift, so its shift is not known."
    assert changes(without, drift=False)["notices"] == [neither]
