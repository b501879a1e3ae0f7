"""An adapter folder: what base it belongs to, and putting it onto that base only.

PEFT warns of weights that are missing and passes over layers that are not there; here everything
that keeps an adapter from being the one that was trained is an error, all of it at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.ref import ADAPTER_CONFIG as CONFIG
from lensbench.checkpoints.ref import ADAPTER_WEIGHTS as WEIGHTS
from lensbench.checkpoints.source import damage
from lensbench.checkpoints.stored.finite import all_finite
from lensbench.checkpoints.stored.tensors import open_tensors
from lensbench.errors import ModelError, refused_by_library
from lensbench.json_text import read_json as strict
from lensbench.quantized.adapters.initial import leaving_base_alone
from lensbench.quantized.adapters.lora import hushed
from lensbench.quantized.precision import keep_scales
from lensbench.spec import ranges

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lensbench.quantized.adapters.on_base import OnBase

MANIFEST = "manifest.json"
PICKLE = "adapter_model.bin"
# What `leaving_base_alone` may have put in place of an adapter's own settings.
_REPLACED = ("init_lora_weights", "r", "lora_alpha", "rank_pattern", "alpha_pattern")
# What PEFT does outside the adapted layers, or lensbench has not checked.
_ELSEWHERE = {
    "alora_invocation_tokens": "so it acts after certain tokens only; the whole is read here",
    "arrow_config": "which routes between several adapters",
    "layer_replication": "which makes another model of its base, with blocks repeated",
    "megatron_config": "so its layers are Megatron's",
    **dict.fromkeys(
        ("use_qalora", "use_bdlora", "velora_config", "monteclora_config", "kasa_config"),
        "which lensbench does not run; merge it with PEFT and load the merged model",
    ),
}
_log = logging.getLogger(__name__)

_BASE = {"weights_sha256": "other weights", "config_sha256": "another config"}
_SHOWN = 5  # names in a message
_PROBE = 8  # tokens that are put to the base before and after
_SAME = 1e-5  # of the largest logit: the same sums in the same order differ by nothing


def attach(
    model: PreTrainedModel,
    folder: Path,
    weights_sha256: str,
    base: Callable[[], nn.Module] | None = None,
    config_sha256: str | None = None,
) -> Any:
    """`model` with the adapter in `folder` on it, in evaluation mode.

    With the adapter switched off (`disable_adapter`) it is the model that it was before, which is
    tried on a few tokens. An adapter that begins with a part of its base's weights (PiSSA, OLoRA)
    is put on as the update that it makes of them; `base` gives these weights as they are stored,
    by default `model` does.

    An adapter without lensbench's manifest is not known to belong to these weights: a warning says
    so, and only names and shapes are compared.

    Raises ModelError with everything that is wrong: no adapter there, or only a pickled one; other
    weights than `weights_sha256` under it, or another config than `config_sha256`; layers that the
    model does not have; weights missing, left over, misshaped or not finite; a base that would not
    be itself any more. The model is as it was then.
    """
    config = read_config(folder)
    weights = read_weights(folder)
    here = {"weights_sha256": weights_sha256, "config_sha256": config_sha256}
    problems = [*_base_problems(folder, here, model, config)]
    problems += [*_layer_problems(model, config, weights)] or [*_kind_problems(config)]
    if problems:
        raise _refused(folder, problems)
    config, weights = leaving_base_alone(folder, config, weights, base or (lambda: model))
    if config.get("use_dora") and getattr(model, "is_loaded_in_8bit", False):
        keep_scales(model)
    was = _probed(model)
    wrapped = _inject(model, folder, config)
    problems = [*_weight_problems(wrapped, weights)]
    if not problems:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(wrapped, weights)
        problems = [*_other_base_problems(wrapped.eval(), was)]
    if problems:
        wrapped.unload()
        raise _refused(folder, problems)
    return wrapped


def _probed(model: Any) -> Float[Tensor, "pos d_vocab"]:
    """What a model says to a few tokens. Raises ModelError for a class that cannot run."""
    ids = torch.arange(1, _PROBE + 1, device=next(model.parameters()).device)[None]
    what = f"{type(model).__name__} cannot be run, so no adapter can be put on it"
    remedy = "Check that this checkpoint runs with transformers itself, or take another model."
    with torch.inference_mode(), refused_by_library(what, remedy):
        return model(input_ids=ids, use_cache=False).logits[0].float()


def _other_base_problems(wrapped: OnBase, was: Float[Tensor, "pos d_vocab"]) -> Iterator[str]:
    """Whether the base is not itself with the adapter switched off."""
    with wrapped.disable_adapter():
        now = _probed(wrapped)
    if now.shape != was.shape or not (now - was).abs().max() <= _SAME * was.abs().max():
        yield (
            "it changes its base for good, so nothing could be compared with the base; merge it "
            "with PEFT where it was trained, and load the merged model"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's config. Raises ModelError when there is none, or a damaged one."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} holds no adapter ({CONFIG} is missing). Give its own folder.")
    return read_json(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors by name. Raises ModelError when they are missing, damaged or pickled.

    Unpickling runs whatever code the file holds, so it is never done.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = f", only {PICKLE}, a pickle, which can run code" if _pickled(folder) else ""
        raise ModelError(f"{folder} holds no {WEIGHTS}{pickled}. Save it again as safetensors.")
    found = damage(path)
    if found is not None:
        raise ModelError(f"{path} {found}. Copy it from the source again, or train it again.")
    with open_tensors(path) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


def _pickled(folder: Path) -> bool:
    return (folder / PICKLE).is_file()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError when it is none."""
    try:
        found = strict(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}). Copy it from the source again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged (no JSON object). Copy it from the source again.")
    return found


def other_base(folder: Path, here: Mapping[str, str | None]) -> list[str] | None:
    """What is not as it was under an adapter when it was trained; None where no manifest says.

    `here`: hashes of weights and config, as `hashes` has them. An adapter of a lensbench that did
    not write a config's hash is compared by its weights alone, as is one of a GGUF file.
    """
    path = folder / MANIFEST
    told = read_json(path).get("model") if path.is_file() else None
    if not isinstance(told, dict) or told.get("weights_sha256") is None:
        return None
    pairs = {what: (told.get(key), here.get(key)) for key, what in _BASE.items()}
    return [
        f"it was trained on {what} ({there[:12]}) than those loaded ({now[:12]}); load the model "
        f"that its {MANIFEST} names"
        for what, (there, now) in pairs.items()
        if there is not None and now is not None and there != now
    ]


def _base_problems(
    folder: Path,
    here: Mapping[str, str | None],
    model: PreTrainedModel,
    config: Mapping[str, Any],
) -> Iterator[str]:
    """Whether the adapter was trained on this model, as far as that can be known."""
    found = other_base(folder, here)
    if found is None:
        named, loaded = config.get("base_model_name_or_path"), model.config.name_or_path
        _log.warning(
            "%s has no manifest, so nobody can say whether it was trained on these weights. "
            "It names its base %r; this is %r. Only names and shapes are compared.",
            folder,
            named,
            loaded,
        )
    yield from found or ()


def _layer_problems(
    model: PreTrainedModel, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Iterator[str]:
    """Layers that the model does not have, and those that are named but have no weights."""
    name, blocks = block_list(model)
    pattern = re.compile(rf"\.{re.escape(name)}\.(\d+)\.")
    there = {int(found[1]) for key in weights if (found := pattern.search(key))}
    named = config.get("layers_to_transform")
    named = {named} if isinstance(named, int) else set(named or ())
    outside = sorted(n for n in there | named if n >= len(blocks))
    if outside:
        yield f"it has blocks {ranges(outside)}, but the model has only 0-{len(blocks) - 1}"
    missing = sorted(named - there)
    if missing:
        yield f"the weights of blocks {ranges(missing)} are missing"


def _kind_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"it is of type {config.get('peft_type')}; only LORA adapters are taken"
        return
    from peft import LoraConfig

    for name, value in config.items():
        if name in _ELSEWHERE and value:
            yield f"it has {name}, {_ELSEWHERE[name]}"
        elif name not in LoraConfig.__dataclass_fields__ and value:
            yield f"the installed PEFT passes over its {name}; update PEFT"


def _inject(model: PreTrainedModel, folder: Path, settings: Mapping[str, Any]) -> OnBase:
    """The model with PEFT's layers in it, their weights still to be set."""
    from peft import PeftConfig

    from lensbench.quantized.adapters.on_base import OnBase

    config = PeftConfig.from_pretrained(str(folder))
    for name in _REPLACED:
        setattr(config, name, settings.get(name, getattr(config, name)))
    config.inference_mode = True
    try:
        with hushed():
            return OnBase(model, config)
    except ValueError as error:  # no module matches
        raise _refused(folder, [(str(error).splitlines() or ["PEFT refuses it"])[0]]) from error


def _weight_problems(wrapped: OnBase, weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Weights that are missing, left over, of another shape, or not finite."""
    from peft import get_peft_model_state_dict

    # By default PEFT asks the hub whether the base's vocabulary has grown.
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    wanted = {key: tuple(w.shape) for key, w in expected.items()}
    got = {key: tuple(w.shape) for key, w in weights.items()}
    if missing := sorted(wanted.keys() - got.keys()):
        yield f"weights are missing: {_few(missing)}"
    if extra := sorted(got.keys() - wanted.keys()):
        yield f"weights have no place in this model: {_few(extra)}"
    shapes = [
        f"{key} {got[key]}, not {wanted[key]}"
        for key in sorted(wanted.keys() & got.keys())
        if wanted[key] != got[key]
    ]
    if shapes:
        yield f"weights are of another shape: {_few(shapes)}"
    if broken := sorted(key for key, w in weights.items() if not all_finite(w)):
        yield f"NaN or Inf is in {_few(broken)}"


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _refused(folder: Path, problems: list[str]) -> ModelError:
    lines = "\n".join(f"  - {problem}." for problem in problems)
    return ModelError(f"The adapter in {folder} does not belong on this model:\n{lines}")
