"""Shards are runs of the collection, and the plan gives back what was put in."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disks import room_for
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output import OutputError, OutputFolder
from pipeline.records import Container, ImageRef
from pipeline.shards import Plan, cut, part_name, part_path, write_plan

# Runs of references that share an archive (or none), as sources list them.
_RUNS = st.lists(st.tuples(st.sampled_from([None, "a.tar", "b.tar"]), st.integers(1, 9)))


def refs_of(runs: list[tuple[str | None, int]]) -> list[ImageRef]:
    return [
        ImageRef(f"{source}#{run}-{place}", source, Container.TAR if source else None, place, place)
        for run, (source, count) in enumerate(runs)
        for place in range(count)
    ]


@given(runs=_RUNS, images_per_shard=st.integers(1, 7))
def test_shards_are_runs_of_one_archive_each(
    runs: list[tuple[str | None, int]], images_per_shard: int
) -> None:
    refs = refs_of(runs)
    shards = list(cut(iter(refs), images_per_shard))
    assert [ref for shard in shards for ref in shard] == refs
    assert all(1 <= len(shard) <= images_per_shard for shard in shards)
    assert all(len({ref.source for ref in shard}) == 1 for shard in shards)
    # None is smaller than it must be: what follows has no room in it or another archive.
    for shard, following in pairwise(shards):
        assert len(shard) == images_per_shard or following[0].source != shard[-1].source


def test_files_share_a_shard_wherever_they_are_read_from() -> None:
    """A file whose credentials are left out is read through its manifest."""
    refs = [ImageRef("https://h/a"), ImageRef("https://h/b", "manifest:1:/list"), ImageRef("/c")]
    assert list(cut(refs, 10)) == [refs]


@pytest.mark.parametrize(
    ("images", "size"),
    [(1, 1), (99, 99), (640, 100), (12_801, 201), (128_000, 2000), (200_001, 2000)],
)
def test_a_small_collection_is_cut_smaller_and_a_tiny_one_not_to_dust(
    images: int, size: int
) -> None:
    refs = [ImageRef(str(number)) for number in range(images)]
    shards = list(cut(refs, "auto"))
    assert [len(shard) for shard in shards[:-1]] == [size] * ((images - 1) // size)
    assert [int(ref.uri) for shard in shards for ref in shard] == list(range(images))


def test_shard_sizes_that_make_no_sense_are_refused() -> None:
    for images_per_shard in (0, -1):
        with pytest.raises(
            ValueError, match=f"images_per_shard {images_per_shard} is not positive"
        ):
            list(cut([], images_per_shard))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_NUMBERS = st.none() | st.integers(0, 2**62)
_REFS = st.builds(
    ImageRef,
    uri=_TEXT,
    source=st.none() | _TEXT,
    container=st.none() | st.sampled_from(Container),
    offset=_NUMBERS,
    num_bytes=_NUMBERS,
)


@settings(max_examples=40, deadline=None)
@given(refs=st.lists(_REFS, max_size=12), images_per_shard=st.integers(1, 5))
def test_the_plan_gives_back_what_was_put_in(
    tmp_path_factory: pytest.TempPathFactory, refs: list[ImageRef], images_per_shard: int
) -> None:
    output = OutputFolder(str(tmp_path_factory.mktemp("plan")))
    write_plan(output, iter(refs), images_per_shard)
    expected = list(cut(refs, images_per_shard))
    plan = Plan(output)
    assert plan.num_images == len(refs)
    assert plan.num_shards == len(expected)
    assert plan.shard_sizes == tuple(map(len, expected))
    for index, run in enumerate(expected):
        shard = plan.shard(index)
        assert (shard.index, list(shard.refs)) == (index, run)


def test_a_plan_is_read_by_several_threads_at_once(tmp_path: Path) -> None:
    """As by the two shards that a worker has in hand. Unguarded, this ends the process."""
    output = OutputFolder(str(tmp_path))
    write_plan(output, (ImageRef(f"/photos/{k:05d}.jpg") for k in range(2000)), 100)
    plan = Plan(output)
    alone = [plan.shard(index) for index in range(20)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            assert list(threads.map(plan.shard, range(20))) == alone


def test_a_listing_that_fails_leaves_no_plan(tmp_path: Path) -> None:
    def refs() -> object:
        yield ImageRef("a.jpg")
        raise OSError("the disk is gone")

    output = OutputFolder(str(tmp_path))
    with pytest.raises(OSError, match="the disk is gone"):
        write_plan(output, refs(), 1)  # type: ignore[arg-type]
    assert not output.plan.exists()


def test_a_plan_that_finds_no_room_says_so(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    refs = [ImageRef(f"/photos/{k * k}.jpg") for k in range(5000)]
    with room_for(10_000), pytest.raises(OSError, match=r"^\[Errno 27\] File too large$"):
        write_plan(output, refs, 100)
    assert [path.name for path in tmp_path.rglob("*")] == [".staging"]


def test_a_damaged_plan_is_named_with_the_way_out(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    with pytest.raises(
        OutputError, match=r"plan.parquet' cannot be read.*remove the output folder"
    ):
        Plan(output)
    write_plan(output, [ImageRef(f"{i}.jpg") for i in range(1000)], 500)
    whole = output.plan.read_bytes()
    for damaged in (b"", b"no parquet", whole[:-20], whole[: len(whole) // 2]):
        output.plan.write_bytes(damaged)
        with pytest.raises(OutputError, match="cannot be read"):
            Plan(output)
    output.plan.write_bytes(whole.replace(b"container", b"cont\xe1iner"))  # one bit of a name
    with pytest.raises(OutputError, match="cannot be read"):
        Plan(output)
    output.plan.write_bytes(whole[:4] + bytes(200) + whole[204:])  # sound at its end alone
    with pytest.raises(OutputError, match="cannot be read"):
        Plan(output).shard(0)
    pq.write_table(pa.table({"path": ["a.jpg"]}), output.plan)
    with pytest.raises(OutputError, match="it has the columns path"):
        Plan(output)


def test_a_flipped_bit_of_a_plan_gives_no_other_images(tmp_path: Path) -> None:
    """They would be labelled in place of the collection's, or the sound parts taken for damaged."""
    output = OutputFolder(str(tmp_path))
    refs = [ImageRef(f"/photos/{k * k}.jpg", num_bytes=9 * k) for k in range(20)]
    refs += [ImageRef(f"a.tar#{k}", "a.tar", Container.TAR, 512 * k, 7) for k in range(20)]
    write_plan(output, refs, 20)
    whole = output.plan.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    counts = [place for place in range(footer, len(whole)) if whole[place] == 40]  # 20, zigzag
    assert counts
    for place in (*range(4, len(whole), 23), *counts):
        for bit in (2, 8, 32):
            flipped = bytes([whole[place] ^ bit])
            output.plan.write_bytes(whole[:place] + flipped + whole[place + 1 :])
            try:
                plan = Plan(output)
                found = [plan.shard(index).refs for index in range(2)]
            except OutputError:
                continue
            assert found == [tuple(refs[:20]), tuple(refs[20:])]
            assert (plan.num_images, plan.shard_sizes) == (40, (20, 20))


def test_part_names_sort_in_shard_order(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    assert part_path(output, 7) == tmp_path / "labels" / "part-00007.parquet"
    names = [part_name(index) for index in (0, 9, 10, 99, 100, 99_999)]
    assert names == sorted(names)
    assert len(set(map(part_name, range(1000)))) == 1000
