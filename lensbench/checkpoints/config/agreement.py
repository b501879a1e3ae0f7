"""What a config.json says twice must be the same: transformers takes one, without a word.

Fields have older spellings, and files hold both: `rope_theta` beside `rope_parameters`, a sliding
pattern beside `layer_types`. Each is compared with what the built config has of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.fields import fields_read
from lensbench.errors import ModelError

# Other names of a way to scale rotary frequencies.
_SAME_ROPE = {"su": "longrope", "mrope": "default"}
_YARN = {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
# The parameters that each way takes; under another one they would have no effect.
_TAKES: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "proportional": {"factor"},
    "dynamic": _YARN,  # Hunyuan's files name them; only the factor is read
    "yarn": _YARN,
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
}
_PARAMETERS = set[str]().union(*_TAKES.values())
# Where each spelling of a rotary parameter stands in `rope_parameters`: kind of block, and name.
_ROPE_FIELDS = {
    "rope_theta": ("full_attention", "rope_theta"),
    "rotary_emb_base": ("full_attention", "rope_theta"),
    "rope_local_base_freq": ("sliding_attention", "rope_theta"),
    "partial_rotary_factor": ("full_attention", "partial_rotary_factor"),
    "rotary_pct": ("full_attention", "partial_rotary_factor"),
    "original_max_position_embeddings": ("full_attention", "original_max_position_embeddings"),
}


def require_agreement(said: Mapping[str, Any], config: Any, where: Path) -> None:
    """Raise ModelError with all that a config.json says and `config`, made from it, has otherwise.

    `said` is the file's content; of a multimodal model, `config` is the text model's.
    """
    own = said.get("text_config")
    own = own if isinstance(own, Mapping) else said
    given = {name: value for name, value in own.items() if value is not None}
    findings = [*_rope(given, config), *_spellings(given, config), *_windows(given, config)]
    if findings:
        lines = "\n".join(f"  - {finding}" for finding in findings)
        raise ModelError(
            f"{where} says what the model would not have:\n{lines}\n"
            "Keep what the model was trained with, and take the other out of the file."
        )


def _differs(name: str, value: Any, has: Any) -> str:
    return f"{name} = {str(value)[:60]}, but the model would have {str(has)[:60]}"


def _rope(said: Mapping[str, Any], config: Any) -> Iterator[str]:
    built = getattr(config, "rope_parameters", None)
    if not isinstance(built, Mapping):
        return
    kinds = _by_kind(built)
    for name, (kind, parameter) in _ROPE_FIELDS.items():
        has = kinds.get(kind, {}).get(parameter)
        if name in said and has is not None and said[name] != has:
            yield _differs(name, said[name], has)
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(said.get(name), Mapping):
            for kind, parameters in _by_kind(said[name]).items():
                yield from _inside(name, parameters, kinds.get(kind, {}))
    for parameters in kinds.values():
        yield from _without_effect(parameters, config.model_type)


def _by_kind(rope: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rotary parameters of each kind of block; of all blocks where they are the same."""
    nested = {kind: own for kind, own in rope.items() if isinstance(own, Mapping)}
    return nested or {"full_attention": rope}


def _inside(name: str, said: Mapping[str, Any], has: Mapping[str, Any]) -> Iterator[str]:
    for key, value in said.items():
        own = has.get("rope_type" if key == "type" else key)
        wanted = _SAME_ROPE.get(str(value), value) if key in ("type", "rope_type") else value
        if value is not None and wanted != own:
            yield _differs(f"{name}.{key}", value, own)


def _without_effect(parameters: Mapping[str, Any], model_type: str) -> Iterator[str]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    way = str(parameters.get("rope_type", "default"))
    if way != "default" and way not in ROPE_INIT_FUNCTIONS:
        yield f"rope_type = {way}: the installed transformers has no such rotary scaling"
        return
    for key in sorted(_PARAMETERS - _TAKES.get(way, _PARAMETERS)):
        if parameters.get(key) not in (None, 1, 1.0):
            yield f"{key} = {str(parameters[key])[:60]} is not read where rope_type is {way}"
    share = parameters.get("partial_rotary_factor", 1.0)
    if share != 1 and way == "default" and "partial_rotary_factor" not in fields_read(model_type):
        yield f"partial_rotary_factor = {share} is not read by models of type {model_type}"


def _spellings(said: Mapping[str, Any], config: Any) -> Iterator[str]:
    """Two names of one field."""
    for name, other in type(config).attribute_map.items():
        if name in said and other in said and said[name] != said[other]:
            yield _differs(name, said[name], said[other])
    declared = "hidden_activation" in type(config)().to_dict()
    acts = getattr(config, "hidden_activation" if declared else "hidden_act", None)
    for name in ("hidden_act", "hidden_activation"):
        legacy = said.get(name) == "gelu" and config.model_type == "gemma"
        if name in said and said[name] != acts and not legacy:
            yield _differs(name, said[name], acts)


def _windows(said: Mapping[str, Any], config: Any) -> Iterator[str]:
    """Which blocks slide, and how far."""
    width, has = said.get("sliding_window_size"), getattr(config, "sliding_window", None)
    if width is not None and has is not None and width != has:
        yield _differs("sliding_window_size", width, has)
    kinds = said.get("layer_types")
    if not isinstance(kinds, list) or not set(kinds) <= {"full_attention", "sliding_attention"}:
        return
    slides = [kind == "sliding_attention" for kind in kinds]
    every, first = said.get("sliding_window_pattern"), said.get("max_window_layers")
    own = every != getattr(type(config)(), "sliding_window_pattern", None)  # the default is saved
    if (
        own
        and isinstance(every, int)
        and every > 0
        and slides != [(i + 1) % every != 0 for i in range(len(kinds))]
    ):
        yield _differs("sliding_window_pattern", every, kinds)
    if (
        said.get("use_sliding_window")
        and isinstance(first, int)
        and slides != [i >= first for i in range(len(kinds))]
    ):
        yield _differs("use_sliding_window", said["use_sliding_window"], kinds)
