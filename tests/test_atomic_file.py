"""A file is replaced whole or not at all, and nothing is left beside it."""

from pathlib import Path

import pytest

from afd_model.atomic_file import atomic_write


@pytest.mark.parametrize("name", ["state.pt", "x" * 251 + ".png"])  # the longest there is
def test_a_file_is_replaced_when_the_block_succeeds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for text in ("first", "second"):
        with atomic_write(path) as file:
            file.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as file:
        file.write_text("half and then \ud800", encoding="utf-8")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("staged", [False, True])
def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path, staged: bool) -> None:
    """Its disk may be unmounted: a training that goes on would keep its state on another one."""
    folder = tmp_path / "run"
    staging = folder / ".staging" if staged else None
    with pytest.raises(FileNotFoundError), atomic_write(folder / "state.pt", staging=staging) as f:
        f.write_text("state")
    assert list(tmp_path.iterdir()) == []
