"""The kinds of fault. Each is done to a run of the label job in a new output folder.

A kind returns what happened; `rounds` checks that the output then equals an undisturbed run's.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from faults.label_job import Ended, LabelJob, command_of, run
from faults.surroundings import ray_cluster, small_disk

STOP_S = 10.0  # in which a run that is told to stop has to have stopped
_IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "1"}  # a minute, if Ray may choose
_CONTINUATIONS = 5


@dataclass
class Scene:
    """What a kind of fault is given: the corpus, a folder that does not exist yet, and its luck."""

    corpus: Path
    output: Path
    shards: int
    luck: random.Random
    excused: set[str] = field(default_factory=set)

    def moment(self) -> int:
        """A number of parts after which to strike; 0: before there is any."""
        return self.luck.randrange(self.shards)


@dataclass(frozen=True)
class Happened:
    """struck: whether the fault came before the run's end. recover_s: from it to the end of all.

    what: a word for people.
    """

    struck: bool
    recover_s: float
    what: str = ""


class NotSurvivedError(AssertionError):
    """The job did not do what it promises after a fault."""


def _completed(scene: Scene, *flags: str) -> None:
    """Repeat the command until it has nothing left to do."""
    for _ in range(_CONTINUATIONS):
        ended = run(scene.corpus, scene.output, *flags)
        if ended.code == 0:
            return
    raise NotSurvivedError(f"{_CONTINUATIONS} continuations did not end it: {ended.said}")


def _expect(condition: object, ended: Ended, what: str) -> None:
    if not condition:
        raise NotSurvivedError(f"{what}; exit code {ended.code}, it said: {ended.said!r}")


def kill_workers(scene: Scene) -> Happened:
    """Kill -9 of a worker, up to three times in a run, which goes on by itself."""
    job = LabelJob(scene.corpus, scene.output)
    struck, since = 0, time.monotonic()
    for moment in sorted(scene.moment() for _ in range(scene.luck.randint(1, 3))):
        if job.wait_for_parts(moment) and (workers := job.workers()):
            _kill(scene.luck.choice(workers))
            struck, since = struck + 1, time.monotonic()
    ended = job.end()
    # A worker killed while it starts may end the run, which says so; the next one continues.
    if ended.code:
        _expect("continues the run" in ended.said or "again" in ended.said, ended, "no way out")
        _completed(scene)
    return Happened(struck > 0, time.monotonic() - since, f"{struck} killed")


def kill_ray(scene: Scene) -> Happened:
    """Kill -9 of one of Ray's own processes: the run ends with a word, or goes on."""
    job = LabelJob(scene.corpus, scene.output)
    struck, name, since = False, "", time.monotonic()
    if job.wait_for_parts(scene.moment()):
        candidates = [p for p in job.family() if "ShardLabeler" not in command_of(p)]
        if candidates:
            victim = scene.luck.choice(candidates)
            name = Path((command_of(victim).split() or ["?"])[0]).name
            _kill(victim)
            struck, since = True, time.monotonic()
    ended = job.end()
    _expect(ended.code == 0 or ended.said.strip(), ended, "it ended without a word")
    if ended.code:
        _completed(scene)
    return Happened(struck, time.monotonic() - since, name)


def kill_driver(scene: Scene) -> Happened:
    """Kill -9 of the driver; the same command, at once, continues."""
    job = LabelJob(scene.corpus, scene.output)
    struck = job.wait_for_parts(scene.moment())
    _kill(job.driver)
    since = time.monotonic()
    job.end()
    _completed(scene)
    return Happened(struck, time.monotonic() - since)


def interrupt(scene: Scene) -> Happened:
    """SIGINT, as from a terminal: a clean stop within 10 s that says how to go on."""
    return _stopped(scene, signal.SIGINT)


def terminate(scene: Scene) -> Happened:
    """SIGTERM, as from a scheduler: the same."""
    return _stopped(scene, signal.SIGTERM)


def _stopped(scene: Scene, number: signal.Signals) -> Happened:
    job = LabelJob(scene.corpus, scene.output)
    struck = job.wait_for_parts(max(1, scene.moment()))
    if struck:
        job.driver.send_signal(number)
    since = time.monotonic()
    ended = job.end()
    stop_s = time.monotonic() - since
    _expect(struck or ended.code == 0, ended, "it failed undisturbed")
    if ended.code != 0:  # 0: it had just finished
        _expect(ended.code == 1, ended, "not an exit code of its own")
        _expect("the same command continues the run" in ended.said, ended, "no way out")
        _expect("Traceback" not in ended.said, ended, "a traceback")
        _expect(stop_s <= STOP_S, ended, f"it took {stop_s:.1f} s to stop")
        _completed(scene)
    return Happened(struck, time.monotonic() - since, f"stopped in {stop_s:.1f} s")


def kill_node(scene: Scene) -> Happened:
    """A whole node of a two-node cluster is lost; the run goes on by itself."""
    with ray_cluster() as cluster:
        second = cluster.add_node(num_cpus=1)
        job = LabelJob(scene.corpus, scene.output, "--address", cluster.address)
        struck = job.wait_for_parts(scene.moment())
        if struck:
            cluster.remove_node(second, allow_graceful=False)
        since = time.monotonic()
        ended = job.end()
        _expect(ended.code == 0, ended, "it did not survive the loss of a node")
        return Happened(struck, time.monotonic() - since)


def lose_head(scene: Scene) -> Happened:
    """Kill -9 of the head node's GCS: Ray ends the driver, in whose place something is said."""
    with ray_cluster() as cluster:
        address = cluster.address
        job = LabelJob(scene.corpus, scene.output, "--address", address, **_IMPATIENT)
        struck = job.wait_for_parts(scene.shards // 4)
        for process in psutil.Process().children():
            if "gcs_server" in command_of(process):
                _kill(process)
        since = time.monotonic()
        ended = job.end()
    _expect(ended.code in (0, 1), ended, "not an exit code of its own")
    if ended.code:
        _expect("the same command continues the run" in ended.said, ended, "no way out")
        _expect(address in ended.said, ended, "it does not say which cluster")
        _completed(scene)
    return Happened(struck, time.monotonic() - since, f"exit code {ended.code}")


def poison(scene: Scene) -> Happened:
    """A worker dies in every attempt at a shard; it is set aside, and the rest finishes."""
    job = LabelJob(scene.corpus, scene.output, "--workers", "1")
    victim, killed = f"part-{scene.moment():05d}.parquet", 0
    while job.driver.poll() is None and killed < 3:
        # The marker is there from before the shard's first byte is read until it is committed.
        marker = f".attempts/{victim}.*.{killed + 1}"
        if list(scene.output.glob(marker)) and (workers := job.workers()):
            _kill(workers[0])
            killed += 1
        time.sleep(0.002)
    since = time.monotonic()
    ended = job.end()
    if killed == 3 and not (scene.output / "labels" / victim).exists():
        _expect(ended.code == 1, ended, "a shard is missing and the exit code says nothing")
        _expect(f"{victim}: the worker process died in each of 3 attempts" in ended.said, ended, "")
        parts = len(list(scene.output.glob("labels/*.parquet")))
        _expect(parts == scene.shards - 1, ended, f"only {parts} parts")
    if ended.code:
        _completed(scene)
    return Happened(killed > 0, time.monotonic() - since, f"{killed} of 3 attempts killed")


def two_drivers(scene: Scene) -> Happened:
    """A second driver begins while the first one works; both finish, and the second says so."""
    first = LabelJob(scene.corpus, scene.output, "--workers", "1")
    struck = first.wait_for_parts(scene.moment())
    second = LabelJob(scene.corpus, scene.output, "--workers", "1")
    since = time.monotonic()
    ends = [job.end() for job in (first, second)]
    for ended in ends:
        _expect(ended.code == 0, ended, "a driver failed")
    word = "nothing to do" if "nothing to do" in ends[1].said else "another driver"
    _expect(not struck or word in ends[1].said, ends[1], "the second driver did not notice")
    return Happened(struck, time.monotonic() - since, word)


def damaged_part(scene: Scene) -> Happened:
    """A part is cut short, or a byte of it changed, after the commit; --verify makes it again."""
    _completed(scene)
    since = time.monotonic()
    part = scene.output / "labels" / f"part-{scene.moment():05d}.parquet"
    data = bytearray(part.read_bytes())
    if scene.luck.random() < 0.5:
        what, data = "cut", data[: scene.luck.randrange(len(data))]
    else:
        what = "byte changed"
        data[scene.luck.randrange(4, len(data) // 3)] ^= 0xFF
    part.write_bytes(data)
    ended = run(scene.corpus, scene.output, "--verify")
    _expect(ended.code == 0, ended, "--verify did not mend it")
    return Happened("is damaged and will be labelled again" in ended.said, _since(since), what)


def disk_full(scene: Scene) -> Happened:
    """The output's disk is full for a while: exit code 1 and the reason; later it continues."""
    since = time.monotonic()
    with small_disk(scene.output, kib=scene.luck.randrange(120, 500)) as enlarge:
        ended = run(scene.corpus, scene.output)
        struck = ended.code != 0
        if struck:
            _expect("No space left on device" in ended.said, ended, "the reason is not named")
            _expect("Traceback" not in ended.said, ended, "a traceback")
        enlarge()
        _completed(scene)
        kept = scene.output.with_suffix(".kept")
        subprocess.run(["cp", "-a", scene.output, kept], check=True)
    scene.output.rmdir()
    kept.rename(scene.output)
    return Happened(struck, _since(since))


def lost_sources(scene: Scene) -> Happened:
    """Files vanish, or become folders, after planning: their rows say so, the others are whole."""
    job = LabelJob(scene.corpus, scene.output)
    struck = job.wait_for_parts(scene.moment())
    victims = scene.luck.sample(sorted(scene.corpus.glob("class*/*.jpg")), 5)
    saved = {path: path.read_bytes() for path in victims}
    since = time.monotonic()
    try:
        for number, path in enumerate(victims):
            path.unlink()
            if number % 2:
                path.mkdir()
        ended = job.end()
    finally:
        for path, data in saved.items():
            if path.is_dir():
                path.rmdir()
            path.write_bytes(data)
    scene.excused.update(map(str, victims))
    _expect(ended.code == 0, ended, "unreadable files failed the run")
    return Happened(struck, time.monotonic() - since, "5 files")


KINDS: dict[str, Callable[[Scene], Happened]] = {
    kind.__name__: kind
    for kind in (
        kill_workers,
        kill_ray,
        kill_driver,
        interrupt,
        terminate,
        kill_node,
        lose_head,
        poison,
        two_drivers,
        damaged_part,
        disk_full,
        lost_sources,
    )
}
NEEDS_ROOT = frozenset({"disk_full"})  # to mount a disk of its own


def _kill(process: psutil.Process) -> None:
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended by itself
        return


def _since(moment: float) -> float:
    return time.monotonic() - moment
