"""What cannot be loaded is refused by name, and what a machine lacks is said."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensbench.errors import InputProblems, MissingExtraError, ModelError
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.machine import report
from lensbench.quantized.precision import (
    ALTERNATIVE,
    PRECISIONS,
    obstacle,
    require_precision,
)
from tests.harness.adapters import logits
from tests.harness.program import Program
from tests.harness.tiny import TINY, Case, save

every_precision = pytest.mark.parametrize("bits", PRECISIONS)
quantised_only = pytest.mark.parametrize("bits", [8, 4])


@every_precision
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, bits: Any, bad: float) -> None:
    folder = save(TINY["llama"], tmp_path)

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = bad

    with_tensors(folder, spoil)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_quantized(folder, bits, device="cpu")


@quantised_only
def test_missing_weights_are_named(tmp_path: Path, bits: Any) -> None:
    folder = save(TINY["llama"], tmp_path)
    with_tensors(folder, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"missing, .*: model\.layers\.2\.mlp\.up_proj"):
        load_quantized(folder, bits, device="cpu")


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the stored tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@every_precision
def test_shards_generation_settings_and_foreign_files(
    llama: Case, tmp_path: Path, bits: Any
) -> None:
    """Some publishers put the same weights beside their shards once more, under other names."""
    model = llama.fresh_hf()
    model.generation_config.eos_token_id = [2, 7]
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    (tmp_path / "tokenizer.json").write_bytes((llama.folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes(
        (llama.folder / "tokenizer_config.json").read_bytes()
    )
    save_file({"other": torch.full((2,), math.nan)}, tmp_path / "consolidated.safetensors")
    sharded = load_quantized(tmp_path, bits, device="cpu")
    whole = load_quantized(llama.folder, bits, device="cpu")
    assert torch.equal(logits(sharded.hf, llama), logits(whole.hf, llama))
    assert sharded.hf.generation_config.eos_token_id == [2, 7]
    assert sharded.hf.name_or_path == str(tmp_path)


@pytest.mark.parametrize(("bits", "threshold"), [(5, 6.0), (8, -1.0), (8, float("nan"))])
def test_settings_out_of_range_are_refused(llama: Case, bits: Any, threshold: float) -> None:
    with pytest.raises(InputProblems, match=r"Give (one of 4, 8, 16, 32|0 \(no outliers\))"):
        load_quantized(llama.folder, bits, device="cpu", int8_threshold=threshold)


def test_bad_models_are_refused_as_on_the_other_path(llama: Case, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean tinyllama"):
        load_quantized("tinylama")
    with pytest.raises(InputProblems, match=r"config\.json"):
        load_quantized(tmp_path)
    folder = save(TINY["llama"], tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="stored quantised"):
        load_quantized(folder, 8)


@quantised_only
@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_named(
    llama: Case, bits: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed.*lensbench\[quant\]"):
        load_quantized(llama.folder, bits, device="cpu")
    assert load_quantized(llama.folder, 16, device="cpu").quantised_modules == 0


def no_kernel(*_: object, **__: object) -> Tensor:
    raise RuntimeError("no kernel for this device\nsecond line")


def all_zero(_: nn.Module, vectors: Tensor) -> Tensor:
    return torch.zeros_like(vectors)


@pytest.mark.parametrize(("bits", "layer"), [(8, "Linear8bitLt"), (4, "Linear4bit")])
@pytest.mark.parametrize(
    ("forward", "reason"), [(no_kernel, "no kernel for this device."), (all_zero, "off by 100%")]
)
def test_where_bitsandbytes_fails_the_alternative_is_named(
    llama: Case,
    bits: Any,
    layer: str,
    forward: Callable[..., Tensor],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"bitsandbytes.nn.{layer}.forward", forward)
    with pytest.raises(ModelError) as caught:
        load_quantized(llama.folder, bits, device="cpu")
    message = str(caught.value)
    assert f"bitsandbytes cannot run {PRECISIONS[bits]} on cpu: " in message
    assert reason in message
    assert ALTERNATIVE in message
    assert obstacle(16, "cpu") is None


@every_precision
def test_every_precision_runs_on_a_cpu_and_trying_it_moves_no_seed(bits: Any) -> None:
    before = torch.random.get_rng_state()
    require_precision(bits, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_doctor_counts_what_a_model_needs(lensbench: Program) -> None:
    facts = report("tinyllama")
    needs = facts["memory"]["needs"]
    assert needs["int8"]["weight_bytes"] <= 1.3e9
    # 10 rows x 200 tokens x 22 layers x (keys, values) x 4 heads x 64 numbers x 2 bytes
    assert needs["int8"]["cache_bytes"] == 10 * 200 * 22 * 2 * 4 * 64 * 2
    assert needs["float32"]["cache_bytes"] == 2 * needs["int8"]["cache_bytes"]
    states = facts["devices"][-1]["precisions"]
    assert states["int8"] == {"works": True, "reason": None, "alternative": None}
    shown = lensbench("doctor", "tinyllama").out
    assert "runs float32, bfloat16, int8, nf4" in shown
    assert "1.23 GB" in shown


def test_doctor_says_what_is_missing(
    lensbench: Program, llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    shown = lensbench("doctor", llama.folder).out
    assert "int8: no, bitsandbytes is not installed" in shown
    assert 'pip install "lensbench[quant]"' in shown
    monkeypatch.undo()
    monkeypatch.setattr("bitsandbytes.nn.Linear8bitLt.forward", no_kernel)
    shown = lensbench("doctor", llama.folder).out
    assert f"int8: no, no kernel for this device. {ALTERNATIVE}" in shown
    with pytest.raises(ModelError, match="No model is called"):
        report("no such model")
