"""Which drivers are at work on an output folder: each has a heartbeat file there.

A scheduler may start a job a second time while the first still runs (KubeRay does so after a false
failure). There is no lock: parts are written atomically under fixed names, so two drivers do no
harm. But temporary files that one driver would clean up may belong to the other.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from pipeline.output import OutputFolder
from pipeline.stores.errors import AccessError

DRIVERS = ".drivers"
REFRESH_S = 5.0
SILENT_S = 30.0  # a driver that missed six refreshes is dead
_HEARTBEAT = re.compile(r"[0-9a-f]{32}\.json")


@dataclass(frozen=True, slots=True, order=True)
class Driver:
    """A driver's heartbeat. Drivers are ordered by `turn`, then by `since`; the least one leads.

    turn: one more than the greatest of those that were there before it.
    since: its start, in seconds since the epoch, by its host's clock.
    name: unique.
    pid_namespace: where `pid` holds; containers may share a host's name and yet not see each
        other's processes.
    start_ticks: the start of `pid` by a clock that nobody sets; 0 if not told.
    """

    turn: int = field(default=0, kw_only=True)
    since: float
    host: str
    pid: int
    name: str
    pid_namespace: str = ""
    start_ticks: int = 0

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {began}"


class Presence:
    """This process's heartbeat on an output folder, inside a `with` block.

    name: this driver's, unique.
    """

    def __init__(self, output: OutputFolder, *, refresh_s: float = REFRESH_S) -> None:
        self.name = uuid.uuid4().hex
        self._driver = _this_process(self.name)
        self._output = output
        self._heartbeat = f"{self.name}.json"
        self._refresh_s = refresh_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="presence", daemon=True)

    def __enter__(self) -> Self:
        # Before this one can be seen: of two that start together, both would follow the other.
        before = map(self._read, self._heartbeats())
        turns = [driver.turn for driver in before if driver is not None]
        self._driver = replace(self._driver, turn=1 + max(turns, default=0))
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, AccessError):  # without refreshes, it counts as dead anyway
            self._output.remove(f"{DRIVERS}/{self._heartbeat}")
            self._output.remove_empty(DRIVERS)

    def leads(self) -> bool:
        """Whether this is the first of the living drivers: that one decides for all."""
        return all(self._driver < other for other in self.others())

    def others(self, *, silent_s: float = SILENT_S) -> list[Driver]:
        """The other living drivers; removes the heartbeats of dead ones.

        Ages are measured with the storage's clock alone, so the hosts' clocks may differ. Where it
        was set back, a heartbeat is of the future: a living driver's, until that renews it.
        """
        self._beat()
        modified_at = self._heartbeats()
        now = modified_at.pop(self._heartbeat, time.time())
        found = []
        for heartbeat, renewed in modified_at.items():
            driver = self._read(heartbeat)
            if abs(now - renewed) > silent_s or (driver is not None and _is_gone(driver)):
                self._output.remove(f"{DRIVERS}/{heartbeat}")
            elif driver is not None:
                found.append(driver)
        return found

    def _heartbeats(self) -> dict[str, float]:
        """Name -> modification time; other files are not this program's to read or remove."""
        found = self._output.modification_times(DRIVERS)
        return {name: renewed for name, renewed in found.items() if _HEARTBEAT.fullmatch(name)}

    def _read(self, heartbeat: str) -> Driver | None:
        """None for a driver that has just ended, or is just starting."""
        try:
            return Driver(**json.loads(self._output.read(f"{DRIVERS}/{heartbeat}")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _beat(self) -> None:
        """Write the file, also if another driver has removed it after a long pause of this one."""
        data = json.dumps(asdict(self._driver)).encode("utf-8")
        self._output.touch(f"{DRIVERS}/{self._heartbeat}", data)

    def _refresh(self) -> None:
        while not self._ended.wait(self._refresh_s):
            with suppress(OSError, AccessError):  # the next refresh may get through
                self._beat()


def _this_process(name: str) -> Driver:
    namespace = _pid_namespace()
    ticks = _state_and_start_ticks(os.getpid())[1] if namespace else 0
    return Driver(time.time(), socket.gethostname(), os.getpid(), name, namespace, ticks)


def _is_gone(driver: Driver) -> bool:
    """Whether the process has ended; False for one that cannot be seen from here."""
    if not driver.pid_namespace or driver.pid_namespace != _pid_namespace():
        return False
    try:
        state, start_ticks = _state_and_start_ticks(driver.pid)
    except (FileNotFoundError, ProcessLookupError):
        return not _exists(driver.pid)
    except OSError:
        return False
    is_zombie = state == "Z"
    return is_zombie or driver.start_ticks not in (0, start_ticks)  # the pid may be reused


def _exists(pid: int) -> bool:
    """Also of another user's process, which /proc may hide."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _state_and_start_ticks(pid: int) -> tuple[str, int]:
    """From /proc/PID/stat: such as "S" or "Z", and the start in ticks since the machine's.

    Not by psutil, whose start times move when the clock is set.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()  # behind the name, which may hold anything
    return fields[0].decode(), int(fields[19])


def _pid_namespace() -> str:
    """Which processes this one sees, as one of this boot of this machine; "" if it is not told."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            return f"{boot_id.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
