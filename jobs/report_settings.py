"""The settings of `afd report`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.checked_settings import CheckedSettings
from jobs.settings import REQUIRED, require_between, require_not_negative, require_positive, setting

_MEMORY = re.compile(r"\d+(\.\d+)?\s*[kMGT]i?B", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ReportSettings(CheckedSettings):
    """Write one HTML page about an output: what the corpus is, and which labels to trust."""

    output: str = setting(REQUIRED, "the output folder of an `afd label` run", positional=True)
    html: str = setting("auto", "file to write; auto: report.html in the output folder")
    against: str = setting("none", "output folder of an earlier run to compare with, or none")
    sure: float = setting(0.5, "minimum confidence of a label that counts as certain, 0 to 1")
    at_risk: float = setting(
        0.2, "minimum flip probability of a label that counts as at risk, 0 to 1"
    )
    thumbnails: int = setting(
        24, "pictures in each gallery, embedded if their sources can be read; 0: no galleries"
    )
    thumbnail_time_s: float = setting(
        20.0, "seconds to spend on reading pictures; after that, entries are shown without one"
    )
    max_labels: int = setting(2000, "number of classes listed, the most frequent first")
    memory_limit: str = setting(
        "1GB", "memory limit of the queries; what does not fit goes to a temporary folder"
    )

    def check_values(self) -> None:
        require_between(self, 0, 1, "sure", "at_risk")
        require_not_negative(self, "thumbnails", "thumbnail_time_s")
        require_positive(self, "max_labels")
        if not _MEMORY.fullmatch(self.memory_limit):
            raise ValueError(
                f"--memory-limit {self.memory_limit!r} is no size: write it like 500MB or 2GB"
            )
