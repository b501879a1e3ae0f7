"""Every causal language model that the installed transformers has, in a tiny random form.

A config class says its fields and their defaults; fields that are sizes are made small by their
names, in nested configs too. What a class needs besides stands in `_SPECIAL`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

N_LAYERS, D_MODEL, D_VOCAB = 3, 32, 384
# Sizes by the names that config classes give them.
_SIZES = {
    D_MODEL: "hidden_size d_model n_embd dim embedding_size word_embed_proj_dim emb_dim lru_width "
    "embedding_dim hidden_size_per_layer_input d_embed attention_hidden_size dim_model",
    48: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim dff ffn_hidden_size "
    "dim_ff d_inner ffn_hidden_dim feed_forward_size",
    N_LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_decoder_layers num_encoder_layers",
    2: "num_key_value_heads n_kv_heads num_experts_per_tok num_experts_per_token moe_topk "
    "num_experts_per_topk top_k_experts moe_k expert_top_k moe_num_active_experts topk "
    "num_global_key_value_heads swa_num_key_value_heads",
    8: "head_dim v_head_dim qk_rope_head_dim qk_nope_head_dim kv_channels rotary_dim "
    "linear_key_head_dim linear_value_head_dim global_head_dim linear_head_dim d_kv "
    "index_head_dim swa_head_dim swa_v_head_dim attention_head_dim",
    16: "kv_lora_rank q_lora_rank moe_intermediate_size shared_expert_intermediate_size "
    "expert_ffn_hidden_size moe_shared_expert_intermediate_size shared_intermediate_size "
    "o_lora_rank mamba_d_state state_size ssm_state_size mamba_state_dim moe_latent_size",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads attention_heads "
    "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts "
    "linear_num_key_heads linear_num_value_heads linear_num_heads mamba_n_heads "
    "index_n_heads sliding_window attention_window_size attention_window sliding_window_size "
    "attention_chunk_size keep_window_size "
    "mamba_num_heads",
    1: "n_group topk_group n_shared_experts num_shared_experts moe_num_shared_experts "
    "first_k_dense_replace n_groups mamba_n_groups expert_num_group",
    D_VOCAB: "vocab_size decoder_vocab_size vocab_size_per_layer_input",
    64: "max_position_embeddings n_positions n_ctx max_sequence_length model_max_length "
    "max_target_positions max_source_positions max_seq_len index_topk",
}
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
# What the names alone do not give, each because the class refused the rest.
_HEADS = {"num_key_value_heads": 4}  # latent attention has no grouped heads
_SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": _HEADS,
    "axk2": _HEADS,
    "deepseek_v2": _HEADS | {"num_experts_per_tok": 2},
    "deepseek_v3": _HEADS,
    "deepseek_v32": _HEADS,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": _HEADS,
    "dots3_note_text": _HEADS,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4_moe_lite": _HEADS,
    "glm_moe_dsa": _HEADS,
    "gemma4_unified_text": {"use_bidirectional_attention": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": _HEADS,
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "attn_layers": ["local"] * 3, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "youtu": _HEADS,
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
}


def model_types() -> list[str]:
    """Those of `AutoModelForCausalLM`, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """The config class of a model type with small sizes."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    return kind(**_small(kind, model_type) | _SPECIAL.get(model_type, {}))


def _small(kind: Any, model_type: str) -> dict[str, Any]:
    """The fields of a config class that are sizes or tokens, small; of its nested configs too."""
    names = {field for one in kind.__mro__ for field in vars(one).get("__annotations__", {})}
    found = {name: _SIZE_OF[name] for name in names if name in _SIZE_OF}
    # A field that is off by default stays off.
    found = {name: size for name, size in found.items() if getattr(kind, name, size) is not None}
    found |= {name: token for name, token in _TOKENS.items() if name in names}
    found |= {name: 0.0 for name in names if _is_chance(kind, name)}
    for name, spec in kind.sub_configs_defaults.items():
        if name in names:
            found[name] = _small_nested(spec)
    return found


def _small_nested(spec: Any) -> Any:
    """A nested config; some classes leave open which kind it is and name one."""
    from transformers import CONFIG_MAPPING

    kind, model_type = spec.config_class, spec.model_type
    if not hasattr(kind, "model_type"):
        kind = CONFIG_MAPPING[model_type]
    settings = dict(spec.init_kwargs) | _small(kind, model_type) | _SPECIAL.get(model_type, {})
    return settings | {"model_type": model_type}


def _is_chance(kind: Any, name: str) -> bool:
    """Dropout and jitter, which make a training step another one each time."""
    rate = getattr(kind, name, None)
    named = any(word in name for word in ("dropout", "pdrop", "layerdrop", "jitter"))
    return named and isinstance(rate, float)


def tiny_model(model_type: str) -> Any:
    """A random model of a size at which every part matters, in evaluation mode.

    Norm weights and biases get noise, or a reader that forgets them would pass.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) / weight.shape[-1] ** 0.5)
    return model.eval()


def save_tiny(model_type: str, folder: Path) -> Path:
    """Write the tiny model and a tokenizer of its vocabulary into `folder`."""
    from tests.harness.tiny import tokenizer

    tiny_model(model_type).save_pretrained(folder, safe_serialization=True)
    tokenizer("bytes").save_pretrained(folder)
    return folder
