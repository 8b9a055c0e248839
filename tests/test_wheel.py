"""The built wheel holds what the tree holds, and gives a working `afd` away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from outputs import Made, write_output

ROOT = Path(__file__).parents[1]
PACKAGES = ("afd_model", "jobs", "pipeline")
_SHARE = "share/afd-label/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without what earlier builds and runs left, by what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip(["wheel", *offline, "--wheel-dir", str(folder), str(source)])
    (built,) = folder.glob("*.whl")
    return built


def pip(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def files_of(folder: Path, root: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def test_it_holds_every_file_of_the_packages_and_the_settings(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    of_packages = {name for name in names if name.startswith(PACKAGES)}
    assert of_packages == set().union(*(files_of(ROOT / name, ROOT) for name in PACKAGES))
    data = {name.partition(_SHARE)[2] for name in names if _SHARE in name}
    assert data == files_of(ROOT / "conf", ROOT)
    (licence,) = (name for name in names if name.endswith("LICENSE"))
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh one with the wheel; the dependencies are those that are installed here."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin/python")
    pip(["--python", python, "install", "--no-deps", "--no-index", str(wheel)])
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth is searched; its own .pth files, such as an editable install, are not
    # read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(environment: Path, *arguments: str, folder: Path) -> str:
    """What `afd` prints, outside the checkout; it must end well."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "bin" / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_afd_runs_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    where = "import jobs, pipeline, afd_model; print(jobs.__file__)"
    assert str(environment) in run(environment, "python", "-c", where, folder=tmp_path)
    assert "afd JOB" in run(environment, "afd", "--help", folder=tmp_path)
    told = run(environment, "afd", "doctor", folder=tmp_path)
    assert "labelling can run here" in told
    assert "shipped AFD weights     ok" in told
    assert "extra report            ok" in told


@pytest.mark.slow
def test_its_settings_and_its_page_are_there(environment: Path, tmp_path: Path) -> None:
    output = write_output(tmp_path / "labels-out", Made(images=200, images_per_shard=100))
    run(environment, "afd", "report", str(output.path), folder=tmp_path)
    assert "<!doctype html>" in (output.path / "report.html").read_text().lower()
    config = environment / _SHARE / "conf/label.yaml"
    shown = run(
        environment,
        *("afd", "label", "photos", "--output", "out", "--config", str(config), "--print-config"),
        folder=tmp_path,
    )
    assert "backbone: resnet50" in shown
