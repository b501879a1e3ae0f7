"""config.json: real files are accepted, and a field nobody checked is an error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from lensbench.checkpoints import open as opening
from lensbench.checkpoints.config.agreement import require_agreement
from lensbench.checkpoints.config.check import check_config
from lensbench.checkpoints.config.fields import NEUTRAL_FIELDS, PUBLISHED, fields_read
from lensbench.checkpoints.families import FAMILIES, FORWARD_FIELDS
from lensbench.checkpoints.open import count_parameters, open_config
from lensbench.errors import ModelError
from tests.harness.files import CONFIGS
from tests.harness.tiny import Case

aliases = pytest.mark.parametrize("alias", [family.alias for family in FAMILIES])


def published(alias: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{alias}.json").read_text())


def test_every_family_has_its_published_config() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == {f.alias for f in FAMILIES}


@aliases
def test_published_configs_are_accepted(alias: str) -> None:
    assert check_config(CONFIGS / f"{alias}.json") == published(alias)
    assert check_config(published(alias)) == published(alias)


@aliases
def test_what_transformers_writes_is_accepted(alias: str, tmp_path: Path) -> None:
    AutoConfig.for_model(**published(alias)).save_pretrained(tmp_path)
    assert check_config(tmp_path)["model_type"] == published(alias)["model_type"]


def test_no_forward_field_is_also_neutral() -> None:
    assert not frozenset.union(*FORWARD_FIELDS.values()) & NEUTRAL_FIELDS


def test_all_unknown_fields_are_named_at_once(tmp_path: Path) -> None:
    fields = published("llama3-8b") | {"final_logit_softcapping": 30.0, "embedding_multiplier": 12}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelError) as caught:
        check_config(tmp_path, allow=())
    message = str(caught.value)
    assert str(path) in message
    assert "final_logit_softcapping: = 30.0" in message
    assert "embedding_multiplier: = 12" in message
    assert "--allow-field final_logit_softcapping --allow-field embedding_multiplier" in message
    with pytest.raises(ModelError) as caught:  # where a verb has no such option
        check_config(tmp_path)
    assert "--allow-field" not in str(caught.value)
    assert "take final_logit_softcapping, embedding_multiplier out of" in str(caught.value)


def test_allowed_and_null_fields_pass() -> None:
    fields = published("tinyllama") | {"swan_lake": 1, "final_logit_softcapping": None}
    assert check_config(fields, allow=["swan_lake"]) == fields


def test_false_is_not_taken_for_harmless() -> None:
    with pytest.raises(ModelError, match="use_rope"):
        check_config(published("tinyllama") | {"use_rope": False})


@pytest.mark.parametrize(
    ("alias", "field", "value", "why"),
    [
        ("gpt2", "scale_attn_weights", False, "scales the scores"),
        ("gpt2", "add_cross_attention", True, "decoder-only"),
        ("pythia-160m", "attention_bias", False, "without biases"),
        ("gemma3-270m", "attn_logit_softcapping", 50.0, "leaves this cap out"),
        ("gemma3-270m", "use_bidirectional_attention", True, "after the position"),
        ("smollm2-135m", "rope_interleaved", True, "halves"),
        ("qwen3-8b", "quantization_config", {"bits": 4}, "stored quantised"),
    ],
)
def test_values_that_cannot_be_run_are_refused(
    alias: str, field: str, value: object, why: str
) -> None:
    with pytest.raises(ModelError, match=f"{field}.*{why}"):
        check_config(published(alias) | {field: value}, allow=[field])


OTHERS = json.loads((CONFIGS / "others" / "published.json").read_text())
others = pytest.mark.parametrize("name", OTHERS)


@others
def test_other_published_configs_are_accepted(name: str) -> None:
    """Each field that a publisher's file holds: 63 files of 45 architectures."""
    assert check_config(OTHERS[name]) == OTHERS[name]


@others
def test_a_field_of_another_architecture_is_refused_all_the_same(name: str) -> None:
    strange = {"warp_logits_by": 1.5}
    with pytest.raises(ModelError, match="warp_logits_by"):
        check_config(OTHERS[name] | strange)


def test_what_is_said_to_be_unread_is_not_read() -> None:
    """transformers' own source never mentions a field of the table of unread ones."""
    for model_type, fields in PUBLISHED.items():
        assert not fields_read(model_type) & fields.keys(), model_type


def test_a_field_that_the_code_reads_but_the_class_does_not_declare_is_known() -> None:
    from transformers import CONFIG_MAPPING

    assert "head_dim" not in CONFIG_MAPPING["qwen3_moe"]().to_dict()
    assert "head_dim" in fields_read("qwen3_moe")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("microsoft/Phi-4-mini-instruct", "lm_head_bias", True),
        ("bigcode/starcoder2-3b", "norm_type", "rms_norm"),
        ("bigcode/starcoder2-3b", "scale_attn_weights", False),
        ("state-spaces/mamba-130m-hf", "rms_norm", False),
        ("state-spaces/mamba-130m-hf", "d_inner", 99),
        ("deepseek-ai/DeepSeek-V2-Lite", "scoring_func", "sigmoid"),
        ("Qwen/Qwen3-30B-A3B", "use_sliding_window", True),
        ("adept/persimmon-8b-base", "num_key_value_heads", 1),
    ],
)
def test_an_unread_field_must_say_what_the_code_does(name: str, field: str, value: object) -> None:
    with pytest.raises(ModelError, match="unknown to lensbench"):
        check_config(OTHERS[name] | {field: value})


def test_code_that_travels_with_a_native_architecture_is_not_needed() -> None:
    config = OTHERS["microsoft/Phi-3-mini-4k-instruct"]
    assert "auto_map" in config
    assert check_config(config) == config
    with pytest.raises(ModelError, match="its own code"):
        check_config({"model_type": "warp9", "auto_map": {"AutoModel": "m.M"}})


def test_an_old_spelling_that_transformers_drops_silently_is_named() -> None:
    """transformers 5 ignores `rope_pct`, so a model that says .5 there would be run with .25."""
    fields = published("stablelm-3b")
    del fields["partial_rotary_factor"]
    with pytest.raises(ModelError, match="rope_pct"):
        check_config(fields | {"rope_pct": 0.5})


def test_architecture_without_a_row_uses_the_fields_of_its_class(tmp_path: Path) -> None:
    AutoConfig.for_model("phi", hidden_size=32, num_attention_heads=4).save_pretrained(tmp_path)
    fields = check_config(tmp_path)
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        check_config(fields | {"final_logit_softcapping": 30.0})


def test_trusted_code_defines_its_own_fields() -> None:
    fields = {"model_type": "warp9", "auto_map": {"AutoModel": "m.M"}, "twist": 1}
    assert check_config(fields, trust_remote_code=True) == fields


def test_nested_text_config_is_checked() -> None:
    fields = {"model_type": "gemma3", "text_config": published("gemma3-270m") | {"twist": 1}}
    with pytest.raises(ModelError, match=r"text_config\.twist"):
        check_config(fields)


def test_unreadable_configs_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        check_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        check_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="no JSON object"):
        check_config(tmp_path)
    with pytest.raises(ModelError, match="model_type"):
        check_config({"hidden_size": 3})
    with pytest.raises(ModelError, match="no model type 'warp9'"):
        check_config({"model_type": "warp9"})


ROPE = {"rope_type": "linear", "rope_theta": 20_000.0, "factor": 2.0}
_LAYERS = ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        ("llama", {"rope_theta": 500_000.0}, "rope_theta"),
        ("llama", {"rope_scaling": ROPE}, r"rope_parameters\.rope_type"),
        ("llama", {"rope_parameters": {**ROPE, "type": "yarn"}}, r"rope_parameters\.type"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "default"}}, "factor = 2"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "llama3"}}, "low_freq_factor"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "banana"}}, "rope_type = banana"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ("stablelm", {"partial_rotary_factor": 1.0}, "partial_rotary_factor"),
        ("gpt_neox", {"rotary_emb_base": 77}, "rotary_emb_base"),
        ("gpt_neox", {"rotary_pct": 1.0}, "rotary_pct"),
        ("gpt2", {"hidden_size": 64}, "hidden_size"),
        ("gemma2", {"hidden_act": "silu"}, "hidden_act"),
        ("gemma2", {"sliding_window_size": 2}, "sliding_window_size"),
        ("gemma3_text", {"rope_local_base_freq": 33.0}, "rope_local_base_freq"),
        ("gemma3_text", {"sliding_window_pattern": 3}, "sliding_window_pattern"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
            | {"layer_types": _LAYERS},
            "use_sliding_window",
        ),
    ],
)
def test_a_file_that_says_a_thing_twice_and_otherwise_is_refused(
    tiny_case: Callable[[str], Case],
    tmp_path: Path,
    kind: str,
    changes: dict[str, Any],
    field: str,
) -> None:
    """transformers takes one of the two, so the model would run with half of what it says."""
    said = json.loads((tiny_case(kind).folder / "config.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(said))
    open_config(tmp_path)
    path.write_text(json.dumps(said | changes))
    with pytest.raises(ModelError, match=field):
        open_config(tmp_path)


@pytest.mark.parametrize("name", [*OTHERS, *(family.alias for family in FAMILIES)])
def test_published_files_agree_with_themselves(name: str) -> None:
    """As published, and as transformers saves them."""
    said = OTHERS[name] if name in OTHERS else published(name)
    for _ in range(2):
        config = AutoConfig.for_model(**json.loads(json.dumps(said)))
        require_agreement(said, config.get_text_config(), Path(name))
        said = json.loads(config.to_json_string(use_diff=False))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "abc"},
        {"num_attention_heads": 0},
        {"rope_parameters": "x"},
        {"rope_parameters": {"rope_type": ["a"], "rope_theta": 1e4}},
        {"hidden_act": "banana"},
        {"vocab_size": -1},
    ],
    ids=str,
)
def test_a_file_that_transformers_cannot_read_is_no_traceback(
    llama: Case, tmp_path: Path, changes: dict[str, Any]
) -> None:
    said = json.loads((llama.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | changes))
    with pytest.raises(ModelError):
        count_parameters(open_config(tmp_path))


def test_parameters_are_counted_once_for_what_a_config_says(llama: Case) -> None:
    config = open_config(llama.folder)
    assert count_parameters(config) == llama.hf.num_parameters()
    wider = open_config(llama.folder)
    wider.vocab_size += 1
    more = count_parameters(wider) - count_parameters(config)
    assert more == config.hidden_size * (1 if config.tie_word_embeddings else 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "empty_model", None)  # whoever makes one again fails
        assert count_parameters(open_config(llama.folder)) == llama.hf.num_parameters()
