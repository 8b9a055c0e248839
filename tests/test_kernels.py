"""Whether and how compiled kernels run: with Numba or without, in threads, on tensors' memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jpegs import encode, photo

from afd_model.inference.kernels import as_array, has_numba, in_threads

# As where Numba is not installed: to import it anywhere would be an error.
WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None

import torch

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.predictor import Predictor
from pipeline.decode import DecodeOptions, Decoder
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage
from pipeline.screening.screen import Limits, screen
from pipeline.stage_clock import StageClock

backbone = load_backbone("mobilenet_v3_small", "none")
classifier = AFDClassifier(backbone, AFDModule(config_for(backbone, "light")))
predictor = Predictor(classifier, device=torch.device("cpu"), precision=torch.bfloat16)
geometry = Geometry.of_preset(backbone.preprocessing, in_blocks=True)
decoder = Decoder(geometry, DecodeOptions(batch_size=1, num_threads=1, dtype=torch.bfloat16))
image = EncodedImage(0, open(sys.argv[1], "rb").read())
screen(image, Limits())
(batch,) = decoder.decode([image], StageClock())
print(predictor(batch.pixels, batch.dct).labels.shape)
"""


def test_labelling_needs_no_numba(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encode(photo(90, 120)))
    command = [sys.executable, "-c", WITHOUT_NUMBA, str(tmp_path / "photo.jpg")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.check_output(command, env=environment) == b"(1,)\n"


@pytest.mark.parametrize(("threads", "count"), [(1, 5), (3, 7), (4, 2), (2, 0)])
def test_every_row_is_worked_on_once_in_as_many_threads_as_pytorch(
    threads: int, count: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    parts: list[slice] = []
    try:
        in_threads(parts.append, count)
    finally:
        torch.set_num_threads(before)
    rows = [row for part in parts for row in range(part.start, part.stop)]
    assert sorted(rows) == list(range(count))
    assert len(parts) == max(1, min(threads, count))


def test_an_error_of_a_thread_is_the_callers() -> None:
    def fail(part: slice) -> None:
        raise ValueError(part)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="slice"):
            in_threads(fail, 4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_array_is_the_tensors_own_memory(dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, dtype=dtype)
    tensor[1] = 1
    array = as_array(tensor)
    array[2] = array[1]
    assert tensor.tolist() == [0, 1, 1]


def test_numba_is_found() -> None:
    assert has_numba()
