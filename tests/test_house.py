"""Which room may import what: the house of the design, held by its walls."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path for room in ("pipeline", "afd_model", "jobs") for path in (ROOT / room).rglob("*.py")
)
# The labelling graph, and the one that degrades for training.
DALI_FILES = {"pipeline/decode.py", "pipeline/pairs/decode_training.py"}


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module a file imports anywhere, `a.b` for `from a import b` too."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(f"{name}.".startswith(f"{package}.") for name in imports(path))
    }


def test_the_walls_see_what_they_are_to_see() -> None:
    assert "pipeline/decode.py" in importers("nvidia.dali")
    assert "jobs/label.py" in importers("pipeline")
    assert any(name.startswith("jobs/") for name in importers("ray"))


def test_dali_is_imported_by_the_decoder_alone() -> None:
    assert importers("nvidia.dali") <= DALI_FILES
    assert importers("nvidia") <= {*DALI_FILES, "pipeline/rescue.py"}  # which asks its parser


def test_ray_is_imported_by_jobs_alone() -> None:
    assert {name for name in importers("ray") if not name.startswith("jobs/")} == set()


@pytest.mark.parametrize(
    "module",
    ["label", "train", "evaluate", "benchmark", "gpu_check", "model", "labelling.shard_labeler"],
)
def test_a_job_starts_without_ray(module: str) -> None:
    """No module that it imports at its top, and none of theirs, imports Ray there."""
    seen, todo = set(), [f"jobs.{module}"]
    while todo:
        path = ROOT / f"{todo.pop().replace('.', '/')}.py"
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        top = ast.parse(path.read_text(encoding="utf-8")).body
        statements = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
        for imported in _imports(ast.Module(statements, [])):
            assert imported.split(".")[0] != "ray", path
            todo += [imported, imported.rpartition(".")[0]]
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("room", "forbidden"), [("pipeline", "jobs"), ("afd_model", "jobs"), ("afd_model", "pipeline")]
)
def test_imports_go_one_way(room: str, forbidden: str) -> None:
    assert {name for name in importers(forbidden) if name.startswith(f"{room}/")} == set()


def test_nothing_shipped_imports_a_test_tool() -> None:
    for tool in ("pytest", "hypothesis", "scipy", "tests", "polars"):
        assert importers(tool) == set()


def test_label_shard_stays_readable() -> None:
    tree = ast.parse((ROOT / "pipeline" / "label_shard.py").read_text(encoding="utf-8"))
    lines = {
        n.name: (n.end_lineno or 0) - n.lineno for n in tree.body if isinstance(n, ast.FunctionDef)
    }
    assert {"label_shard", "label_images"} <= lines.keys()
    assert max(lines.values()) < 40


def test_the_readmes_tree_names_every_module() -> None:
    """What a folder holds stands on its line, or on deeper ones below it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("## The tree")[2].partition("\n## ")[0]
    named, folders = set(), {-1: ""}
    for line in filter(str.strip, tree.splitlines()):
        depth = len(line) - len(line.lstrip())
        folders = {indent: path for indent, path in folders.items() if indent < depth}
        folder, words = folders[max(folders)], line.split()
        if words[0].endswith("/"):
            folder = folders[depth] = f"{folder}{words[0]}"
        named |= {f"{folder}{word}" for word in words if word.endswith(".py")}
    modules = {path.relative_to(ROOT).as_posix() for path in MODULES}
    named.remove("tests/test_<module>.py")
    assert named == {name for name in modules if not name.endswith("__init__.py")}
