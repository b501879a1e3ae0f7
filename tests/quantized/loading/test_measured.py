"""What a record says of a model's bits is counted on the model, by its own parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from lensbench.errors import ModelError
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.precision import PRECISIONS
from tests.harness.adapters import make_adapter
from tests.harness.tiny import Case, Tiny, save

_MIXTURE = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}
MIXTURES = ("mixtral", "qwen3_moe", "olmoe", "qwen2_moe")


def mixture(kind: str, folder: Path) -> Path:
    """A tiny mixture of experts, with the fields that its config has."""
    known = AutoConfig.for_model(kind).to_dict()
    fields = {key: value for key, value in _MIXTURE.items() if key in known}
    return save(Tiny(kind, fields, "bytes"), folder)


@pytest.mark.parametrize("bits", PRECISIONS)
def test_the_formats_are_those_of_the_parameters(
    family: Case, bits: Any, loaded: Callable[[Case, int], AdaptedModel]
) -> None:
    found = loaded(family, bits).facts()["precisions"]
    sizes = {name: weight.numel() for name, weight in family.hf.named_parameters()}
    blocks = f"{family.row.backbone}.{family.row.blocks}."
    linear = {n: size for n, size in sizes.items() if n.startswith(blocks) and "norm" not in n}
    linear = {n: size for n, size in linear.items() if family.hf.get_parameter(n).ndim == 2}
    quantised = sum(linear.values()) if bits in (8, 4) else 0
    other = "float32" if bits == 32 else "bfloat16"
    expected = {other: sum(sizes.values()) - quantised}
    if quantised:
        expected[PRECISIONS[bits]] = quantised
        assert found[PRECISIONS[bits]]["modules"] == len(linear)
    assert {form: own["weights"] for form, own in found.items()} == expected
    assert sum(own["share"] for own in found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_adapter_does_not_count(llama: Case, tmp_path: Path, bits: Any) -> None:
    folder = make_adapter(llama, tmp_path / "a")
    plain = load_quantized(llama.folder, bits, device="cpu")
    adapted = load_quantized(llama.folder, bits, folder, device="cpu")
    assert adapted.facts()["precisions"] == plain.facts()["precisions"]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_whose_experts_would_stay_in_16_bits_is_refused(
    kind: str, bits: Any, tmp_path: Path
) -> None:
    folder = mixture(kind, tmp_path / kind)
    with pytest.raises(ModelError, match=r"% of the weights in its blocks would stay in 16 bits"):
        load_quantized(folder, bits, device="cpu")
    whole = load_quantized(folder, 16, device="cpu")
    assert whole.facts()["precisions"].keys() == {"bfloat16"}
    with torch.no_grad():
        assert bool(whole.hf(torch.tensor([[5, 6, 7]])).logits.isfinite().all())
