"""config.json: real files are accepted, and a field nobody checked is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from lensbench.checkpoints.config import NEUTRAL_FIELDS, check_config
from lensbench.checkpoints.families import FAMILIES, FORWARD_FIELDS
from lensbench.errors import ModelError
from tests.harness.files import CONFIGS

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
        check_config(tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert "final_logit_softcapping: = 30.0" in message
    assert "embedding_multiplier: = 12" in message
    assert "--allow-field final_logit_softcapping --allow-field embedding_multiplier" in message


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
        ("qwen3-8b", "auto_map", {"AutoModel": "m.M"}, "its own code"),
    ],
)
def test_values_that_cannot_be_run_are_refused(
    alias: str, field: str, value: object, why: str
) -> None:
    with pytest.raises(ModelError, match=f"{field}.*{why}"):
        check_config(published(alias) | {field: value}, allow=[field])


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
