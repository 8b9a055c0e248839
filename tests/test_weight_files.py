"""A file of weights: what training scripts leave is taken, what is damaged or foreign is not."""

import argparse
import os
import re
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

from afd_model.backbones import load_backbone
from afd_model.weight_files import tensors_sha256


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    return load_backbone("squeezenet1_1", "none").module.state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.net."])
def test_what_training_frameworks_put_before_the_names_is_taken_off(
    prefix: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "lightning.ckpt"
    state = {prefix + key: value for key, value in small_state.items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(5)}, "epoch": 3}, path)
    found = load_backbone("squeezenet1_1", str(path)).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in small_state.items())
    twice = state | {f"ema.{key}": value for key, value in small_state.items()}
    torch.save(twice, path)  # which of the two?
    with pytest.raises(ValueError, match=r"tensors are missing.*; the file's first is \S+features"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.parametrize("kind", ["pth", "wrapped.pt", "safetensors"])
def test_a_fine_tuned_file_brings_its_own_classes(
    kind: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state = dict(small_state)
    state["classifier.1.weight"] = torch.randn(7, 512, 1, 1)
    state["classifier.1.bias"] = torch.randn(7)
    path = str(tmp_path / f"weights.{kind}")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "pth":
        torch.save(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    backbone = load_backbone("squeezenet1_1", path)
    assert backbone.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(
        backbone.module.state_dict()["classifier.1.bias"], state["classifier.1.bias"]
    )
    assert backbone.class_names is None
    assert backbone.weights_sha256 is not None


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_family_whose_weights_have_versions_takes_a_file(kind: str, tmp_path: Path) -> None:
    """MNASNet alone refuses a state dict of no version; a .safetensors file holds none."""
    expected = load_backbone("mnasnet0_5", "none").module.state_dict()
    path = str(tmp_path / f"weights.{kind}")
    torch.save(expected, path) if kind == "pth" else safetensors.torch.save_file(expected, path)
    found = load_backbone("mnasnet0_5", path).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_densenets_names_of_its_first_release_are_known(prefix: str, tmp_path: Path) -> None:
    """Those of the files that torchvision publishes, which are older than BatchNorm's counters."""
    expected = load_backbone("densenet121", "none").module.state_dict()
    path = tmp_path / "densenet121-a639ec97.pth"
    dotted = re.compile(r"(denselayer\d+\.)(norm|conv)(\d)")
    old = {prefix + dotted.sub(r"\1\2.\3", key): value for key, value in expected.items()}
    torch.save({key: old[key] for key in old if "num_batches" not in key}, path)
    found = load_backbone("densenet121", str(path)).module.state_dict()
    assert f"{prefix}features.denseblock1.denselayer1.norm.1.weight" in old
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_weights_that_are_single_numbers_count_in_the_digest() -> None:
    """As the learnt gains of NFNets: tensors without a dimension."""
    gains = ({"gain": torch.tensor(gain)} for gain in (0.5, 0.25))
    assert len(set(map(tensors_sha256, gains))) == 2


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_and_foreign_files_are_refused_in_one_line(
    suffix: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"w.{suffix}"

    def save(state: dict[str, torch.Tensor]) -> bytes:
        if suffix == "pth":
            torch.save(state, path)
        else:
            safetensors.torch.save_file(state, path)
        return path.read_bytes()

    whole = save(small_state)
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>" * 10):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot read weights from") as caught:
            load_backbone("squeezenet1_1", str(path))
        assert "\n" not in str(caught.value)
    save({key: value for key, value in small_state.items() if key != "features.0.bias"})
    with pytest.raises(ValueError, match=r"1 tensors are missing, the first is features\.0\.bias"):
        load_backbone("squeezenet1_1", str(path))
    save(small_state | {"features.0.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match=r"features\.0\.bias is \(9,\), not \(64,\)"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
def test_files_of_more_than_weights_are_refused_with_the_way_out(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    for held, name in ((torch.nn.ReLU(), "ReLU"), (argparse.Namespace(lr=1), "Namespace")):
        torch.save({"model": small_state, "extra": held}, path)
        with pytest.raises(ValueError, match=rf"holds a \S+{name}, .* save the state dict alone"):
            load_backbone("squeezenet1_1", str(path))
    torch.save({"model": os.getcwd}, path)
    with pytest.raises(ValueError, match=r"holds a posix\.getcwd, .* could run code"):
        load_backbone("squeezenet1_1", str(path))
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="TorchScript"):
        load_backbone("squeezenet1_1", str(path))
    torch.save({"net": small_state, "epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no tensors but 'net', 'epoch'"):
        load_backbone("squeezenet1_1", str(path))
    torch.save(small_state | {"features.0.bias": torch.full((64,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"features\.0\.bias holds NaN or infinity"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_tensors_that_hold_no_plain_numbers_are_refused(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, name = tmp_path / "w.pth", "classifier.1.bias"
    plain = small_state[name]
    quantized = torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8)
    odd = (quantized, plain.to_sparse(), plain.to("meta"), plain.to(torch.complex64))
    for value in odd:
        torch.save(small_state | {name: value}, path)
        with pytest.raises(ValueError, match=rf"{name} is quantized, sparse, .* floating point"):
            load_backbone("squeezenet1_1", str(path))
    torch.save(small_state | {"classifier.1.weight": torch.zeros(0, 512, 1, 1)}, path)
    with pytest.raises(ValueError, match=r"weight is \(0, 512, 1, 1\), not \(1000, 512, 1, 1\)"):
        load_backbone("squeezenet1_1", str(path))
