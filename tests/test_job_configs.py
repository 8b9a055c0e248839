"""conf/*.yaml says every setting of its job, with the default, and with the help beside it."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from jobs.benchmark_settings import BenchmarkSettings
from jobs.compress_settings import CompressSettings
from jobs.evaluate_settings import EvaluateSettings
from jobs.explain_settings import ExplainSettings
from jobs.report_settings import ReportSettings
from jobs.train_settings import TrainSettings

CONF = Path(__file__).parents[1] / "conf"


@pytest.mark.parametrize(
    ("name", "settings_class"),
    [
        ("benchmark", BenchmarkSettings),
        ("compress", CompressSettings),
        ("evaluate", EvaluateSettings),
        ("explain", ExplainSettings),
        ("report", ReportSettings),
        ("train", TrainSettings),
    ],
)
def test_file_equals_the_defaults(name: str, settings_class: type) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    fields = [f for f in dataclasses.fields(settings_class) if f.default is not dataclasses.MISSING]
    expected = {
        f.name: list(f.default) if isinstance(f.default, tuple) else f.default for f in fields
    }
    assert yaml.safe_load(text) == expected
    comments = re.sub(r"\s*\n# ", " ", text)
    for field in fields:
        assert field.metadata["help"] in comments, field.name
