"""Who else is at work on an output folder: a file for each driver, kept fresh while it lives.

A scheduler may start a job a second time while the first still runs (KubeRay does so after a false
failure). Nothing is locked: parts are committed whole and by name, so two drivers do no harm. But
what one of them calls leftovers may be the other's work in progress.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

import psutil

from pipeline.output import OutputFolder
from pipeline.stores.errors import AccessError

DRIVERS = ".drivers"
REFRESH_S = 5.0
SILENT_S = 30.0  # six refreshes that did not come
_CLOCK_SLACK_S = 10.0  # a start time is worked out from the boot time, which clocks set right moves


@dataclass(frozen=True, slots=True, order=True)
class Driver:
    """since: when it began, seconds since the epoch. host, pid: where it runs. name: its own."""

    since: float
    host: str
    pid: int
    name: str

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {began}"


class Presence:
    """This process's sign on an output folder. Use as a context manager.

    name: this driver's; no other has it.
    """

    def __init__(self, output: OutputFolder, *, refresh_s: float = REFRESH_S) -> None:
        self.name = uuid.uuid4().hex
        self._driver = Driver(time.time(), socket.gethostname(), os.getpid(), self.name)
        self._output = output
        self._sign = f"{self.name}.json"
        self._refresh_s = refresh_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, AccessError):  # a sign that is not refreshed is a dead driver's
            self._output.remove(f"{DRIVERS}/{self._sign}")
            self._output.remove_empty(DRIVERS)

    def leads(self) -> bool:
        """Whether no living driver came before this one: then it decides for all."""
        return all(self._driver < other for other in self.others())

    def others(self, *, silent_s: float = SILENT_S) -> list[Driver]:
        """The other drivers that live; the signs of dead ones are removed.

        Ages are differences of the storage's own clock, so hosts' clocks may disagree.
        """
        self._renew()
        renewed_at = self._output.changed_at(DRIVERS)
        now = renewed_at.pop(self._sign, time.time())
        found = []
        for sign, renewed in renewed_at.items():
            try:
                driver = Driver(**json.loads(self._output.read(f"{DRIVERS}/{sign}")))
            except FileNotFoundError:  # it has just ended
                continue
            except (ValueError, TypeError):  # it has just begun
                continue
            if now - renewed > silent_s or _is_gone(driver):
                self._output.remove(f"{DRIVERS}/{sign}")
            else:
                found.append(driver)
        return found

    def _renew(self) -> None:
        """Also for one that was taken for dead by another driver, after a long stop."""
        data = json.dumps(asdict(self._driver)).encode("utf-8")
        self._output.touch(f"{DRIVERS}/{self._sign}", data)

    def _refresh(self) -> None:
        while not self._ended.wait(self._refresh_s):
            with suppress(OSError, AccessError):  # the next refresh may get through
                self._renew()


def _is_gone(driver: Driver) -> bool:
    """Whether the process is known to have ended; only its own host can tell."""
    if driver.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(driver.pid)
        # Another process may have been given the number since.
        reused = process.create_time() > driver.since + _CLOCK_SLACK_S
        return reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
