"""Fields of config.json files: which ones a model's own code reads, and which it need not.

A config class takes every field that a file holds, and keeps those that it does not declare: the
model's code may read them all the same (Qwen3-MoE's `head_dim`). So the code itself is searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lensbench.checkpoints.families import FORWARD_FIELDS
from lensbench.errors import ModelError

# Fields that cannot change the logits of an evaluation forward pass, whatever their value.
_NEUTRAL = (
    # What it is called.
    "_name_or_path name_or_path _model_name_or_path _from_model_config _commit_hash "
    "architectures model_type transformers_version transformers.js_config is_llama_config "
    "unsloth_version unsloth_fixed tokenizer_name from_tf auto_map "
    # Storage.
    "dtype torch_dtype use_cache cache_implementation chunk_size_feed_forward pretraining_tp "
    "torchscript use_bfloat16 output_past "
    # Tokens, and how many there may be.
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id "
    "mask_token_id decoder_start_token_id tokenizer_class prefix pad_id eod_token_id "
    "model_max_length max_sequence_length seq_length "
    # Training.
    "initializer_range gradient_checkpointing attention_dropout hidden_dropout "
    "classifier_dropout attn_pdrop embd_pdrop resid_pdrop summary_first_dropout "
    "output_router_logits seq_aux ep_size num_nextn_predict_layers init_config init_device "
    "init_std verbose "
    # Other heads.
    "id2label label2id num_labels _num_labels problem_type task_specific_params finetuning_task "
    "summary_activation summary_proj_to_labels summary_type summary_use_proj pool_type "
    # Outputs.
    "output_attentions output_hidden_states output_scores return_dict_in_generate is_decoder "
    # Backends.
    "_attn_implementation attn_implementation _attn_implementation_autoset "
    "_flash_attn_2_enabled _experts_implementation experts_implementation "
    "keys_to_ignore_at_inference tf_legacy_loss tie_encoder_decoder "
    # Generation.
    "max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
)
NEUTRAL_FIELDS = frozenset(_NEUTRAL.split())
# Rates and weights that act in training alone, whatever a family calls them.
_TRAINING = re.compile(r"\w*(dropout|pdrop|layerdrop|jitter|aux_loss|z_loss|initializer|_init_)\w*")
_ROPE_SPELLINGS = frozenset(
    {"rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"}
)

Says = Callable[[Any, Mapping[str, Any]], bool]  # its value, the whole config -> harmless


def _anything(value: Any, config: Mapping[str, Any]) -> bool:
    return True


def _only(wanted: object) -> Says:
    """It says what the code does anyway; any other value would ask for something else."""
    return lambda value, config: bool(value == wanted and isinstance(value, type(wanted)))


def _same_as(field: str) -> Says:
    """It says again what another field says."""
    return lambda value, config: field in config and value == config[field]


def _without(field: str) -> Says:
    """It belongs to a part that another field has switched off."""
    return lambda value, config: not config.get(field)


# Fields of published files that transformers' code for the architecture never reads.
PUBLISHED: dict[str, dict[str, Says]] = {
    "bloom": {
        "attention_softmax_in_fp32": _anything,
        "masked_softmax_fusion": _anything,
        "offset_alibi": _anything,
        "skip_bias_add": _anything,
        "skip_bias_add_qkv": _anything,
    },
    "codegen": {"scale_attn_weights": _only(True)},
    "cohere2": {
        "layer_switch": _same_as("sliding_window_pattern"),
        "order_of_interleaved_layers": _only("local_attn_first"),
        "position_embedding_type": _only("rope_gptj"),
        "rotary_pct": _only(1.0),
        "use_embedding_sharing": _only(True),
        "use_gated_activation": _only(True),
        "use_parallel_block": _only(True),
        "use_parallel_embedding": _anything,
    },
    "ctrl": {"n_ctx": _anything, "pruned_heads": _only({})},
    "deepseek_v2": {"moe_layer_freq": _only(1), "scoring_func": _only("softmax")},
    "deepseek_v3": {
        "moe_layer_freq": _only(1),
        "scoring_func": _only("sigmoid"),
        "topk_method": _only("noaux_tc"),
    },
    "ernie4_5": {"use_rmsnorm": _only(True)},
    "falcon": {
        "apply_residual_connection_post_layernorm": _only(False),
        "ff_factor": lambda value, config: (
            config.get("ffn_hidden_size") == value * config["hidden_size"]
        ),
    },
    "gemma": {"hidden_activation": _only("gelu_pytorch_tanh")},
    "gpt_bigcode": {
        "inference_runner": _only(0),
        "pad_key_length": _anything,
        "pre_allocate_kv_cache": _anything,
        "validate_runner_input": _anything,
    },
    "gpt_oss": {
        "experts_per_token": _same_as("num_experts_per_tok"),
        "initial_context_length": _anything,
    },
    "gptj": {"rotary": _only(True), "scale_attn_weights": _only(True)},
    "hunyuan_v1_dense": {
        "attention_head_dim": _same_as("head_dim"),
        "cla_share_factor": _without("use_cla"),
        "dense_list": _anything,
        "im_end_id": _anything,
        "im_newline_id": _anything,
        "im_start_id": _anything,
        "mask_init_id": _anything,
        "mlp_bias": _only(False),
        "norm_type": _only("rms"),
        "num_experts": _only(1),
        "org_vocab_size": _anything,
        "use_cla": _only(False),
        "use_qk_norm": _only(True),
    },
    "jamba": {
        "calc_logits_for_entire_prompt": _anything,
        "mamba_inner_layernorms": _only(True),
        "num_logits_to_keep": _anything,
    },
    "lfm2": {
        "block_dim": _same_as("hidden_size"),
        "block_norm_eps": _same_as("norm_eps"),
        "block_use_swiglu": _only(True),
        "block_use_xavier_init": _anything,
        "conv_dim": _same_as("hidden_size"),
        "conv_dim_out": _same_as("hidden_size"),
        "conv_use_xavier_init": _anything,
        "num_heads": _same_as("num_attention_heads"),
        "use_pos_enc": _only(True),
    },
    "mamba": {
        "d_inner": _same_as("intermediate_size"),
        "d_model": _same_as("hidden_size"),
        "fused_add_norm": _anything,
        "n_layer": _same_as("num_hidden_layers"),
        "pad_vocab_size_multiple": _anything,
        "rms_norm": _only(True),
        "ssm_cfg": _only({}),
    },
    "openai-gpt": {
        "n_ctx": _anything,
        "n_special": _only(0),
        "predict_special_tokens": _anything,
    },
    "opt": {"learned_embeddings": _only(True), "scale_embeddings": _only(False)},
    "persimmon": {"num_key_value_heads": _same_as("num_attention_heads")},
    "phi3": {
        "attention_bias": _only(False),
        "full_attn_mod": _only(1),
        "interpolate_factor": _only(1),
        "lm_head_bias": _only(False),
        "mlp_bias": _only(False),
    },
    "qwen2": {"use_mrope": _only(False)},
    "qwen3_moe": {"max_window_layers": _without("use_sliding_window")},
    "qwen3_next": {"use_sliding_window": _only(False)},
    "recurrent_gemma": {
        "_block_types": _same_as("block_types"),
        "embeddings_scale_by_sqrt_dim": _only(True),
    },
    "smollm3": {"max_window_layers": _without("use_sliding_window")},
    "starcoder2": {
        "activation_function": _anything,
        "attention_softmax_in_fp32": _anything,
        "layer_norm_epsilon": _same_as("norm_epsilon"),
        "mlp_type": _only("default"),
        "norm_type": _only("layer_norm"),
        "scale_attention_softmax_in_fp32": _anything,
        "scale_attn_weights": _only(True),
    },
}


def is_harmless(name: str, config: Mapping[str, Any]) -> bool:
    """Whether this field, at the value that `config` gives it, leaves the model as it runs here."""
    if name in NEUTRAL_FIELDS or name in forward_fields(config["model_type"]):
        return True
    if _TRAINING.fullmatch(name) and isinstance(config[name], int | float):
        return True
    says = PUBLISHED.get(config["model_type"], {}).get(name)
    return says is not None and says(config[name], config)


def forward_fields(model_type: str) -> frozenset[str]:
    """Fields of this architecture that may stand in its config.json.

    A row of the table lists what was checked. Without a row it is every field that transformers'
    own config class has, and every other one that the model's code reads.
    """
    return FORWARD_FIELDS.get(model_type) or _transformers_fields(model_type)


@cache
def _transformers_fields(model_type: str) -> frozenset[str]:
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    fields = frozenset(kind().to_dict()) | frozenset(kind.attribute_map)
    fields |= fields_read(model_type)
    return fields | _ROPE_SPELLINGS if "rope_parameters" in fields else fields


def is_native(model_type: str) -> bool:
    """Whether transformers has this architecture itself."""
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def require_native(model_type: str) -> None:
    """Raise ModelError for an architecture that transformers does not have itself."""
    if not is_native(model_type):
        raise ModelError(
            f"The installed transformers knows no model type {model_type!r}. Update it with: "
            "pip install -U transformers"
        )


_READ = (
    re.compile(r"\bconfig\.([A-Za-z]\w*)"),
    re.compile(r"\b(?:getattr|hasattr)\(\s*(?:self\.)?config,\s*[\"'](\w+)[\"']"),
    re.compile(r"\brope_parameters(?:\[\w+\])?\.get\(\s*[\"'](\w+)[\"']"),
    re.compile(r"\bkwargs\.(?:pop|get)\(\s*[\"'](\w+)[\"']"),
)


def fields_read(model_type: str) -> frozenset[str]:
    """Fields of a config that transformers' code for this architecture reads by name."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    package = find_spec(f"transformers.models.{model_type_to_module_name(model_type)}")
    if package is None or package.origin is None:
        return frozenset()
    folder = Path(package.origin).parent
    files = [*folder.glob("configuration_*.py"), *folder.glob("modeling_*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(files))
    return frozenset(name for pattern in _READ for name in pattern.findall(text))
