"""The config.json of a model, refused when it holds a field whose effect nobody has checked.

A reader that skips a field it does not know runs another model than the one that was published:
Gemma 2 without its final soft cap still ranks the right token first, so no accuracy test notices.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lensbench.checkpoints.families import FORWARD_FIELDS
from lensbench.errors import ModelError

# Fields that cannot change the logits of an evaluation forward pass, whatever their value.
_NEUTRAL = (
    # What it is called.
    "_name_or_path name_or_path _model_name_or_path _from_model_config _commit_hash "
    "architectures model_type transformers_version transformers.js_config is_llama_config "
    "unsloth_version unsloth_fixed "
    # Storage.
    "dtype torch_dtype use_cache cache_implementation chunk_size_feed_forward pretraining_tp "
    # Tokens.
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id "
    "mask_token_id decoder_start_token_id tokenizer_class prefix "
    # Training.
    "initializer_range gradient_checkpointing attention_dropout hidden_dropout "
    "classifier_dropout attn_pdrop embd_pdrop resid_pdrop summary_first_dropout "
    "output_router_logits "
    # Other heads.
    "id2label label2id num_labels problem_type task_specific_params finetuning_task "
    "summary_activation summary_proj_to_labels summary_type summary_use_proj "
    # Outputs.
    "output_attentions output_hidden_states output_scores return_dict_in_generate is_decoder "
    # Backends.
    "_attn_implementation attn_implementation _attn_implementation_autoset "
    "_flash_attn_2_enabled _experts_implementation experts_implementation "
    "keys_to_ignore_at_inference "
    # Generation.
    "max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
)
NEUTRAL_FIELDS = frozenset(_NEUTRAL.split())

# Fields that lensbench can work with at these values only; null is always fine.
_ONLY: dict[str, tuple[object, str]] = {
    "return_dict": (True, "it turns the outputs into bare tuples"),
    "is_encoder_decoder": (False, "only decoder-only models have this lens"),
    "add_cross_attention": (False, "only decoder-only models have this lens"),
    "rope_interleaved": (False, "transformers rotates halves, not neighbouring pairs"),
    "use_bidirectional_attention": (False, "the model would see the tokens after the position"),
}
# The same for one architecture: switches that TransformerLens 4.3 was measured to get wrong.
_ONLY_FOR: dict[tuple[str, str], tuple[object, str]] = {
    ("gpt2", "scale_attn_weights"): (True, "TransformerLens scales the scores all the same"),
    ("gemma3_text", "attn_logit_softcapping"): (None, "TransformerLens leaves this cap out"),
    ("gpt_neox", "attention_bias"): (True, "TransformerLens cannot split attention without biases"),
}
_REFUSED = {
    "quantization_config": "the weights are stored quantised; give the folder of the unquantised "
    "model (--bits quantises while it loads)",
    "auto_map": "the model brings its own code, which runs only with trust_remote_code=True",
}
_ROPE_SPELLINGS = frozenset({"rope_theta", "rope_scaling", "partial_rotary_factor"})


def check_config(
    source: Path | str | Mapping[str, Any],
    *,
    allow: Collection[str] = (),
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return the parsed config, or raise one ModelError that names every field not understood.

    `source` is a model folder, a config.json or its content. `allow` holds names of fields that
    the user vouches for (`--allow-field`); it cannot lift what lensbench is unable to run. Trusted
    code that travels with the weights defines its own fields, so there is nothing to compare with.
    """
    config, where = _read(source)
    if trust_remote_code and config.get("auto_map"):
        return config
    findings = _findings(config, frozenset(allow))
    if findings:
        lines = "\n".join(f"  - {name}: {why}" for name, why in findings.items())
        raise ModelError(f"{where} cannot be used as it is:\n{lines}{_remedy(findings)}")
    return config


def _read(source: Path | str | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(source, Mapping):
        return dict(source), "The model's config"
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing. Give a model folder with a config.json.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}). Copy it from the source again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object. Copy it from the source again.")
    return config, str(path)


_UNKNOWN = "unknown to lensbench for this kind of model, so it may change the forward pass"


def _findings(config: Mapping[str, Any], allow: frozenset[str]) -> dict[str, str]:
    """Each field that stands in the way, and why. A null field cannot change anything."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return {"model_type": "is missing, so the kind of model is unknown"}
    known = NEUTRAL_FIELDS | _ONLY.keys() | allow | forward_fields(model_type)
    found: dict[str, str] = {}
    for name, value in config.items():
        if value is None:
            continue
        rule = _ONLY_FOR.get((model_type, name)) or _ONLY.get(name)
        if name in _REFUSED:
            found[name] = _REFUSED[name]
        elif rule is not None and value != rule[0]:
            found[name] = f"is {json.dumps(value)}: {rule[1]}"
        elif name == "text_config" and isinstance(value, Mapping):
            found |= {f"{name}.{key}": why for key, why in _findings(value, allow).items()}
        elif name not in known:
            found[name] = f"= {json.dumps(value)[:60]}: {_UNKNOWN}"
    return found


def _remedy(findings: Mapping[str, str]) -> str:
    unknown = [name.split(".")[-1] for name, why in findings.items() if why.endswith(_UNKNOWN)]
    if not unknown:
        return ""
    flags = " ".join(f"--allow-field {name}" for name in unknown)
    return (
        "\nUpdate lensbench and transformers; or, if you know that the model's own code takes "
        f"no notice of them, pass {flags}"
    )


def forward_fields(model_type: str) -> frozenset[str]:
    """Fields of this architecture that may stand in its config.json.

    A row of the table lists what was checked. Without a row it is every field that transformers'
    own config class has, because the model's code cannot depend on a field its class lacks.
    """
    return FORWARD_FIELDS.get(model_type) or _transformers_fields(model_type)


def _transformers_fields(model_type: str) -> frozenset[str]:
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"The installed transformers knows no model type {model_type!r}. Update it with: "
            "pip install -U transformers"
        )
    config = CONFIG_MAPPING[model_type]()
    fields = frozenset(config.to_dict()) | frozenset(config.attribute_map)
    return fields | _ROPE_SPELLINGS if "rope_parameters" in fields else fields
