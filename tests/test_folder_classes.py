"""The class that a folder's name stands for."""

import unicodedata

from jobs.evaluation.folder_classes import UNKNOWN, FolderClasses


def test_folders_are_wordnet_ids_or_names() -> None:
    classes = FolderClasses(
        ["n01", "n02", "n03"], ["tench, Tinca tinca", "crane", "great grey owl, crane"]
    )
    assert classes.of("n02/x.jpg") == 1
    assert classes.of("val/Tinca_tinca/x.jpg") == 0
    assert classes.of("great-grey owl/x.jpg") == 2
    assert classes.of("crane/x.jpg") == UNKNOWN  # two classes share the word
    assert classes.of("x.jpg") == UNKNOWN
    assert FolderClasses(None, None).of("n01/x.jpg") == UNKNOWN


def test_folders_are_names_in_any_script() -> None:
    classes = FolderClasses(None, ["кошка 1", "собака 2", "Crème brûlée, 焦糖布丁"])
    assert [classes.of(f"{name}/x.jpg") for name in ("КОШКА_1", "собака-2")] == [0, 1]
    for name in ("creme brulee", "лошадь 1", "丁"):
        assert classes.of(f"{name}/x.jpg") == UNKNOWN
    for form in ("NFC", "NFD"):
        assert classes.of(unicodedata.normalize(form, "crème-brûlée/x.jpg")) == 2
    assert classes.of("焦糖布丁/x.jpg") == 2


def test_an_image_in_no_folder_is_of_no_class() -> None:
    """However the list of names ends its lines."""
    classes = FolderClasses(None, ["tench, Tinca tinca,", "crane"])
    assert [classes.of(name) for name in ("x.jpg", "---/x.jpg")] == [UNKNOWN] * 2
    assert classes.of("tench/x.jpg") == 0
