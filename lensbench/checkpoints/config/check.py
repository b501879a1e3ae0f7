"""The config.json of a model, refused when it holds a field whose effect nobody has checked.

A reader that skips a field it does not know runs another model than the one that was published:
Gemma 2 without its final soft cap still ranks the right token first, so no accuracy test notices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.fields import is_harmless, is_native, require_native
from lensbench.errors import ModelError
from lensbench.json_text import read_json

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
}
# What a config makes lists of before anything is compared with the weights.
_COUNT = re.compile(
    r"(layers?|blocks?|block_count|experts?|expert_count|heads?|head_count|labels)$"
)
MOST_OF_A_KIND = 100_000
_OWN_CODE = "the model brings its own code, which runs only with trust_remote_code=True"


def check_config(
    source: Path | str | Mapping[str, Any],
    *,
    allow: Collection[str] | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return the parsed config, or raise one ModelError that names every field not understood.

    `source` is a model folder, a config.json or its content. `allow` holds names of fields that
    the user vouches for (`--allow-field`); it cannot lift what lensbench is unable to run, and is
    None where there is no such option. Trusted code that travels with the weights defines its own
    fields, so there is nothing to compare with. Code that transformers has itself runs without
    trust, and the code that travels along stays unread.
    """
    config, where = read_config(source)
    if trust_remote_code and config.get("auto_map"):
        return config
    findings = _findings(config, frozenset(allow or ()))
    if findings:
        lines = "\n".join(f"  - {name}: {why}" for name, why in findings.items())
        remedy = _remedy(findings, allow is not None)
        raise ModelError(f"{where} cannot be used as it is:\n{lines}{remedy}")
    return config


def read_config(source: Path | str | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The config as it is written, and where. Raises ModelError when it is no JSON object."""
    if isinstance(source, Mapping):
        return dict(source), "The model's config"
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        config = read_json(path)
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
    if config.get("auto_map") and not is_native(model_type):
        return {"auto_map": _OWN_CODE}
    require_native(model_type)
    found: dict[str, str] = {}
    for name, value in config.items():
        if value is None:
            continue
        rule = _ONLY_FOR.get((model_type, name)) or _ONLY.get(name)
        if name in _REFUSED:
            found[name] = _REFUSED[name]
        elif is_count(name) and isinstance(value, int) and value > MOST_OF_A_KIND:
            found[name] = "is more than any model has, and as many would be made"
        elif rule is not None and value != rule[0]:
            found[name] = f"is {json.dumps(value)}: {rule[1]}"
        elif name == "text_config" and isinstance(value, Mapping):
            found |= {f"{name}.{key}": why for key, why in _findings(value, allow).items()}
        elif rule is None and name not in allow and not is_harmless(name, config):
            found[name] = f"= {json.dumps(value)[:60]}: {_UNKNOWN}"
    return found


def is_count(name: str) -> bool:
    """Whether a field says how many of something a model has."""
    return _COUNT.search(name) is not None


def _remedy(findings: Mapping[str, str], can_allow: bool) -> str:
    unknown = [name.split(".")[-1] for name, why in findings.items() if why.endswith(_UNKNOWN)]
    if not unknown:
        return ""
    flags = " ".join(f"--allow-field {name}" for name in unknown)
    way = f"pass {flags}" if can_allow else f"take {', '.join(unknown)} out of the file"
    return (
        "\nUpdate lensbench and transformers; or, if you know that the model's own code takes "
        f"no notice of them, {way}"
    )
