"""An image's name in its collection: relative to the collection's root, and the only one."""

from pipeline.inputs.image_names import collection_root, common_root, distinct, relative_name
from pipeline.inputs.places import place_of
from pipeline.records import ImageRef


def test_the_only_class_keeps_its_folder() -> None:
    refs = [ImageRef("/photos/n01/a.jpg"), ImageRef("/photos/n01/b.jpg")]
    assert collection_root("/photos", refs) == collection_root("/photos/", refs) == "/photos"
    assert relative_name(refs[0], collection_root("/photos", refs)) == "n01/a.jpg"
    assert collection_root("file:///photos", refs) == "/photos"
    assert collection_root("/photos/*/*.jpg", refs) == "/photos/n01"
    assert collection_root("/lists/all.txt", refs) == "/photos/n01"
    bucket = [ImageRef("s3://bucket/photos/n01/a.jpg")]
    root = collection_root("s3://bucket/photos/", bucket)
    assert relative_name(bucket[0], root) == "n01/a.jpg"
    elsewhere = ImageRef("https://example.org/c.jpg", source="/photos/more.parquet")
    assert collection_root("/photos", [*refs, elsewhere]) == "/photos"
    assert collection_root("/a.tar", [ImageRef("/a.tar#x.jpg", source="/a.tar")]) == ""


def test_a_name_that_is_not_utf8_changes_no_other_name() -> None:
    paths = ("/photos/n01/a.jpg", "/photos/n01/\udcff b.jpg", "/photos/n02/100%.jpg")
    refs = [place_of(path).as_image() for path in paths]
    for root in (collection_root("/photos", refs), common_root(refs)):
        names = [relative_name(ref, root) for ref in refs]
        assert names == ["n01/a.jpg", "n01/%FF%20b.jpg", "n02/100%.jpg"]
    within = [place_of("/\udcff/a.jpg").as_image()]
    assert relative_name(within[0], collection_root("/\udcff", within)) == "a.jpg"


def test_a_name_is_a_files_name() -> None:
    """A key of a Parquet file or the name of a tar's member may be any text."""
    for name, expected in (("a\0b.jpg", "a_b.jpg"), ("../..\0/a.jpg", ".._/a.jpg")):
        assert relative_name(ImageRef(f"/x.tar#{name}", source="/x.tar"), "") == expected


def test_paths_that_fall_together_are_told_apart() -> None:
    paths = ["a/x.jpg", "a/x.jpg", "a/x-2.jpg", "x", "a/x.jpg", "x", "b.c/x", "b.c/x"]
    found = list(distinct(paths))
    assert found == [
        *("a/x.jpg", "a/x-2.jpg", "a/x-2-2.jpg", "x", "a/x-3.jpg", "x-2", "b.c/x", "b.c/x-2"),
    ]
    many = list(distinct(["x.jpg"] * 50_000))  # in linear time: as many tars of one layout
    assert len(set(many)) == 50_000


def test_a_disk_that_ignores_case_has_a_file_for_each() -> None:
    """As exFAT, NTFS and SMB do. Folders that fall together there share one, and no file in it."""
    paths = ["A.jpg", "a.jpg", "a-2.JPG", "Dogs/x.jpg", "dogs/X.jpg", "dogs/y.jpg", "É", "é"]
    found = list(distinct(paths))
    assert found == [
        "A.jpg",
        "a-2.jpg",
        "a-2-2.JPG",
        "Dogs/x.jpg",
        "dogs/X-2.jpg",
        *paths[5:7],
        "é-2",
    ]
    assert len({path.lower() for path in found}) == len(paths)
