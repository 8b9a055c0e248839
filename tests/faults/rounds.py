"""Rounds of faults, each audited against an undisturbed run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.audit import Audit, audit
from faults.kinds import KINDS, Happened, Scene
from faults.label_job import make_corpus, run


@dataclass(frozen=True)
class Stage:
    """What all rounds share: the corpus and the output of an undisturbed run."""

    folder: Path
    corpus: Path
    reference: Path
    shards: int
    undisturbed_s: float


@dataclass(frozen=True)
class Round:
    kind: str
    seed: int
    happened: Happened
    audit: Audit


def set_up(folder: Path) -> Stage:
    corpus, reference = make_corpus(folder / "corpus"), folder / "reference"
    ended = run(corpus, reference)
    if ended.code:
        raise RuntimeError(f"the undisturbed run failed: {ended.said}")
    shards = len(list(reference.glob("labels/*.parquet")))
    return Stage(folder, corpus, reference, shards, ended.wall_s)


def play(stage: Stage, kind: str, seed: int) -> Round:
    """One round. Raises NotSurvivedError when the job breaks a promise; its output is kept then."""
    output = stage.folder / f"{kind}-{seed}"
    luck = random.Random(f"{kind} {seed}")
    scene = Scene(stage.corpus, output, stage.shards, luck)
    happened = KINDS[kind](scene)
    found = audit(output, stage.reference, excused=frozenset(scene.excused))
    if found.clean:
        shutil.rmtree(output)
    return Round(kind, seed, happened, found)


def scripts(kinds: list[str], rounds: int, seed: int) -> Iterator[tuple[str, int]]:
    """(kind, seed) of every round, the kinds taking turns."""
    for number in range(rounds):
        for kind in kinds:
            yield kind, seed + number
