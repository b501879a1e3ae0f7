"""Loading at 32, 16, 8 and 4 bits: what is quantised, how well, what it weighs, what is refused."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from lensbench.checkpoints import placement
from lensbench.checkpoints.families import FAMILIES, Family, family_for_alias
from lensbench.errors import InputProblems, ModelError
from lensbench.quantized import precision
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.precision import (
    PRECISIONS,
    sizes_of,
    sizes_of_family,
)
from tests.harness.adapters import make_adapter
from tests.harness.files import CONFIGS
from tests.harness.gguf import write_tiny_gguf
from tests.harness.program import Program
from tests.harness.tiny import SENTENCES, Case

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
Loaded = Callable[[Case, int], AdaptedModel]
every_precision = pytest.mark.parametrize("bits", PRECISIONS)
quantised_only = pytest.mark.parametrize("bits", [8, 4])
each_family = pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.alias)


def logits(model: AdaptedModel) -> Tensor:
    with torch.inference_mode():
        return model.hf(IDS).logits.float()


@every_precision
def test_every_family_at_every_precision(family: Case, bits: Any, loaded: Loaded) -> None:
    model = loaded(family, bits)
    assert not model.hf.training
    assert bool(logits(model).isfinite().all())
    assert len(model.blocks) == model.n_layers == 3
    assert model.d_model == 32
    assert model.n_ctx == (256 if family.name == "gpt2" else 64)
    assert model.n_params == family.hf.num_parameters()
    facts = model.facts()
    assert facts["quantised_modules"] == (0 if bits >= 16 else count_linear(family.hf))
    assert facts["weight_bytes"] == model.weight_bytes
    json.dumps(facts)


def count_linear(model: nn.Module) -> int:
    """Matrices inside the blocks: norms and biases are vectors."""
    in_blocks = [w for name, w in model.named_parameters() if re.search(r"\.\d+\.", name)]
    return sum(weight.ndim == 2 for weight in in_blocks)


def test_32_bits_are_the_model_itself(family: Case, loaded: Loaded) -> None:
    model = loaded(family, 32)
    with torch.inference_mode():
        expected = family.hf(IDS).logits
    assert torch.equal(logits(model), expected)


@quantised_only
def test_quantised_weights_are_the_model_s_own(family: Case, bits: Any) -> None:
    """Each layer, dequantised by hand, is its float weight to half a step of the code.

    Of a model that nobody has run: then bitsandbytes keeps the scales elsewhere.
    """
    model = load_quantized(family.folder, bits, device="cpu")
    originals = dict(family.hf.named_parameters())
    for name, module in model.base.named_modules():
        if isinstance(module, precision.quantised_types(bits)):
            original = originals[f"{name}.weight"].detach()
            original = original.T if family.name == "gpt2" else original  # its own Conv1D
            compare = close_int8 if bits == 8 else close_nf4
            compare(module, original)


def close_int8(module: Any, original: Tensor) -> None:
    largest = original.abs().amax(1, keepdim=True)  # a scale for each row
    found = module.weight.data.float() * module.weight.SCB[:, None] / 127
    rounding = largest / 127 / 2 + largest * 2**-8  # half a step, and bfloat16 before it
    assert bool(((found - original).abs() <= rounding).all())


# The 16 values of nf4 (Dettmers et al. 2023, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip


def close_nf4(module: Any, original: Tensor) -> None:
    packed = module.weight.data.flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    blocks = original.flatten().split(64)  # a scale for each 64
    for block, code in zip(blocks, codes.split(64), strict=True):
        nearest = (block[:, None] / block.abs().max() - NF4).abs()
        slack = 0.02  # bfloat16 may tip a value over the middle between two codes
        assert bool((nearest.gather(1, code[:, None])[:, 0] <= nearest.amin(1) + slack).all())


@every_precision
def test_head_embedding_and_norms_are_never_quantised(
    family: Case, bits: Any, loaded: Loaded
) -> None:
    model = loaded(family, bits)
    expected = torch.float32 if bits == 32 else torch.bfloat16
    assert model.base.get_output_embeddings().weight.dtype == expected
    assert model.base.get_input_embeddings().weight.dtype == expected
    vectors = [weight for weight in model.base.parameters() if weight.ndim == 1]
    assert {weight.dtype for weight in vectors} == {expected}


# --- adapters and state_dict ---


@pytest.fixture(scope="module")
def zero_adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter as PEFT starts it: B is zero, so it changes nothing."""
    folder = tmp_path_factory.mktemp("adapter") / "zero"
    return make_adapter(llama, folder, size=0.0, lora=Lora(targets="q,v", rank=4))


@every_precision
def test_an_adapter_of_zeros_changes_nothing(llama: Case, zero_adapter: Path, bits: Any) -> None:
    plain = load_quantized(llama.folder, bits, device="cpu")
    before = logits(plain)
    adapted = load_quantized(llama.folder, bits, adapter=zero_adapter, device="cpu")
    assert torch.equal(logits(adapted), before)
    assert [type(block) for block in adapted.blocks] == [type(block) for block in plain.blocks]
    assert (adapted.d_model, adapted.n_ctx, adapted.n_params) == (32, 64, plain.n_params)
    assert adapted.quantised_modules == plain.quantised_modules
    assert adapted.facts()["adapter"] == zero_adapter.name


@every_precision
def test_state_dict_after_a_forward_pass_harms_nothing(
    family: Case, bits: Any, loaded: Loaded
) -> None:
    model = loaded(family, bits)
    before = logits(model)
    model.hf.state_dict()
    assert torch.equal(logits(model), before)


def test_nf4_is_never_repacked(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with AVX512-BF16, which this one need not be, bitsandbytes would.

    Its packed form wants widths of 64 times something: repacked, this model could not even run.
    """
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load_quantized(llama.folder, 4, device="cpu")
    before = logits(model)
    model.hf.state_dict()
    assert torch.equal(logits(model), before)


# --- bytes ---


@each_family
def test_a_row_of_the_table_gives_the_sizes_of_its_config(row: Family) -> None:
    config = AutoConfig.for_model(**json.loads((CONFIGS / f"{row.alias}.json").read_text()))
    exact, estimated = sizes_of(config), sizes_of_family(row)
    assert estimated.n_cached == exact.n_cached
    assert exact.n_linear + exact.n_other == row.n_params
    for bits in PRECISIONS:
        assert estimated.weight_bytes(bits) == pytest.approx(exact.weight_bytes(bits), rel=0.02)
        halves = replace(exact, stored_bytes=2)  # the table does not say how a file stores them
        assert estimated.loading_bytes(bits) == pytest.approx(halves.loading_bytes(bits), rel=0.1)


def test_cached_numbers_are_those_of_a_real_cache(family: Case) -> None:
    with torch.inference_mode():
        cache = family.hf(IDS[:, :3], use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert sizes_of(family.hf.config).n_cached * 3 == held


def test_tinyllama_in_8_bits_weighs_at_most_1_3_gb() -> None:
    row = family_for_alias("tinyllama")
    assert row is not None
    assert 1.1e9 < sizes_of_family(row).weight_bytes(8) <= 1.3e9


@pytest.mark.parametrize("bits", [32, 16])
def test_weight_bytes_are_those_on_disk(llama: Case, bits: Any) -> None:
    model = load_quantized(llama.folder, bits, device="cpu")
    buffers = sum(buffer.nbytes for buffer in model.hf.buffers())
    on_disk = sum(weight.nbytes for weight in llama.hf.parameters())  # float32
    assert model.weight_bytes == on_disk * bits // 32 + buffers


def test_what_cannot_fit_is_refused_with_the_sum(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sizes_of(llama.hf.config)
    room = sizes.loading_bytes(8)
    monkeypatch.setattr(placement, "memory_available", lambda device: room)
    with pytest.raises(ModelError) as caught:
        load_quantized(llama.folder, 32, device="cpu")
    message = str(caught.value)
    assert f"{sizes.n_linear:.3g} weights x 4 bytes (float32)" in message
    assert f"{sizes.n_other:.3g} x 4 bytes" in message
    assert "on cpu are available. Try --bits 8" in message
    monkeypatch.setattr(placement, "memory_available", lambda device: 10)
    with pytest.raises(ModelError, match="Take a smaller model"):
        load_quantized(llama.folder, 4, device="cpu")


# --- names and other formats ---


def test_the_threshold_is_on_record(llama: Case) -> None:
    assert load_quantized(llama.folder, 8, device="cpu").facts()["int8_threshold"] == 6.0
    model = load_quantized(llama.folder, 8, device="cpu", int8_threshold=0)
    assert model.facts()["int8_threshold"] == 0
    layers = [m for m in model.base.modules() if isinstance(m, precision.quantised_types(8))]
    assert {layer.state.threshold for layer in layers} == {0}
    assert load_quantized(llama.folder, 4, device="cpu").facts()["int8_threshold"] is None


def test_loading_in_8_bits_says_the_threshold(
    llama: Case, lensbench: Program, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lensbench"):
        load_quantized(llama.folder, 16, device="cpu")
        assert caplog.messages == []
        load_quantized(llama.folder, device="cpu")
    share = sum(w.numel() for n, w in llama.hf.named_parameters() if "_proj" in n)
    share /= llama.hf.num_parameters()
    assert caplog.messages == [
        f"{llama.folder}: 8 bits (LLM.int8, outlier threshold 6); of the weights "
        f"{1 - share:.1%} are in bfloat16, {share:.1%} are in int8"
    ]
    done = lensbench("lens", f"{llama.folder}@8", SENTENCES[0], "--device", "cpu")
    assert "8 bits (LLM.int8, outlier threshold 0)" in done.said


def test_a_loaded_model_is_shown_in_one_line(llama: Case, tmp_path: Path) -> None:
    adapter = make_adapter(llama, tmp_path / "moved")
    model = load_quantized(f"{llama.folder}@8:2+{adapter}", device="cpu")
    assert repr(model) == (
        f"AdaptedModel({llama.folder}: 8 bits (LLM.int8, outlier threshold 2), adapter moved, "
        "3 layers x 32, bfloat16 on cpu)"
    )
    assert load_quantized(model) is load_quantized(model, bits=8) is model
    with pytest.raises(InputProblems, match="bits is said twice: 8 in the name, and 4"):
        load_quantized(model, bits=4)


def test_of_bitsandbytes_advice_only_the_one_for_other_kernels_is_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = logging.getLogger("bitsandbytes.backends.cpu.ops")
    theirs.warning("Failed to load: %s. Please make sure you already `pip install kernels`", "x")
    theirs.warning("another warning")
    assert caplog.messages == ["another warning"]
    source = Path(sys.modules["bitsandbytes.backends.cpu.ops"].__file__ or "").read_text()
    assert "pip install kernels" in source, "bitsandbytes no longer says it: drop the filter"


@every_precision
def test_a_gguf_folder_loads_at_every_precision(tmp_path: Path, bits: Any) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    exact = load_quantized(tmp_path, 32, device="cpu")
    model = load_quantized(tmp_path, bits, device="cpu")
    assert model.folder == tmp_path
    assert model.hf.name_or_path == str(tmp_path)
    assert (model.quantised_modules > 0) == (bits < 16)
    reference = logits(exact).log_softmax(-1)
    drift = (reference.exp() * (reference - logits(model).log_softmax(-1))).sum(-1) / math.log(2)
    assert float(drift.max()) < {32: 1e-6, 16: 0.01, 8: 0.1, 4: 1.0}[bits]
