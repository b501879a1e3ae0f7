"""What was loaded is what is stored: every tensor in its place, every place filled.

transformers fills a weight that is missing with random numbers and passes over a tensor that it
has no use for. Both give a model that runs, and that nobody published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.checkpoints.open import aloud
from lensbench.checkpoints.stored.tensors import some
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)

# What programs put into the names of weights, and how it is taken out again.
_WRAPPERS = {
    "_orig_mod.": "torch.compile puts it there: save model._orig_mod instead",
    "_fsdp_wrapped_module.": "FSDP puts it there: save the full state dict instead",
    "_checkpoint_wrapped_module.": "checkpointing puts it there: save the model without it",
    "base_model.model.": "PEFT puts it there: save model.merge_and_unload() instead",
    "module.": "DistributedDataParallel puts it there: save model.module instead",
}
_HALF_PRECISION = 2.0**-7  # how far bfloat16 may have rounded a stored frequency


def require_complete(
    model: PreTrainedModel,
    found: Mapping[str, Any],
    stored: Mapping[str, Any],
    tied: Mapping[str, str],
    where: Path,
) -> None:
    """Raise ModelError with every weight that is missing, unused, of another shape or doubtful.

    Args:
        model: as it was loaded.
        found: transformers' report of that, which leaves out what it declares to be harmless.
        stored: the tensors of the file, by name.
        tied: the weights that the config says are one, as transformers has them: one -> the other.
    """
    none = _output_biases_of_none(model, found["missing_keys"], where)
    missing, unused = sorted(found["missing_keys"] - none), sorted(found["unexpected_keys"])
    findings = [
        *_misnamed(missing, unused),
        *(f"missing, and would be random: {some(missing)}" for _ in missing[:1]),
        *(f"in the file but not in the model: {some(unused)}" for _ in unused[:1]),
        *_undeclared(model, unused),
        *_other_shapes(found["mismatched_keys"]),
        *_untied(model, tied),
        *_twice(model, stored),
        *_no_floats(model, stored),
        *_other_frequencies(model, stored),
        *map(str, found["error_msgs"]),
    ]
    if findings:
        lines = "\n".join(f"  - {finding}" for finding in findings)
        raise ModelError(
            f"{where}: the weights are not those of the model that config.json describes:\n{lines}"
            "\nFetch the model again, or save it again from the program that made it."
        )


def _output_biases_of_none(model: PreTrainedModel, missing: set[str], where: Path) -> set[str]:
    """Biases of attention's output that no block stores, although q, k and v store theirs.

    `attention_bias` of the Llama classes means all four, and models of the Qwen kind that were
    exported as Llama have three. A bias that is not there is 0, which is what transformers puts in,
    and a warning says so; in some blocks only, it was lost.
    """
    config = model.config.get_text_config()
    if getattr(config, "attention_bias", False) is not True:
        return set()
    own = {name for name, _ in model.named_parameters() if name.endswith(".o_proj.bias")}
    others = {
        name for name in missing if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))
    }
    if not own or not own <= missing or others:
        return set()
    biases = [model.get_parameter(name) for name in own]
    if not all(bias.is_meta or not bool(bias.any()) for bias in biases):
        return set()
    if not any(bias.is_meta for bias in biases):  # once: when the weights are read, not rehearsed
        with aloud():
            _log.warning(
                "%s: config.json says attention_bias, and no block in the file has one at the "
                "output of attention (%s). They are read as 0, as of a model that has them at "
                "queries, keys and values alone.",
                where,
                some(sorted(own), 1),
            )
    return own


def _misnamed(missing: list[str], unused: list[str]) -> Iterator[str]:
    """The part of the names without which unused tensors would be those that are missing."""
    for wrapper, remedy in _WRAPPERS.items():
        if any(_ends_alike(name.replace(wrapper, ""), missing) for name in _with(wrapper, unused)):
            yield f"the names of the weights hold '{wrapper}' ({remedy})"
            return
    levels = zip(*(name.split(".") for name in unused), strict=False)
    shared = takewhile(lambda parts: len(set(parts)) == 1, levels)
    prefix = ".".join(parts[0] for parts in shared)
    if prefix and any(_ends_alike(name.removeprefix(prefix + "."), missing) for name in unused):
        yield f"the names of the weights begin with '{prefix}.' (rename them without it)"


def _with(part: str, names: list[str]) -> list[str]:
    return [name for name in names if part in name]


def _ends_alike(name: str, names: list[str]) -> bool:
    """Whether `name` is among `names`, with or without the name of the whole decoder before it."""
    return any(one == name or one.endswith(f".{name}") or name.endswith(f".{one}") for one in names)


def _undeclared(model: PreTrainedModel, unused: list[str]) -> Iterator[str]:
    """Where config.json may say that there are such weights."""
    config = model.config.get_text_config()
    blocks = getattr(config, "num_hidden_layers", None)
    if any(name.endswith(".bias") for name in unused):
        fields = config.to_dict().items()
        off = [name for name, value in fields if "bias" in name and value is False]
        if off:
            yield f"biases are in the file; config.json says {', '.join(off)} = false"
    if any(f".{blocks}." in name for name in unused):
        yield f"config.json says that there are {blocks} blocks"


def _other_shapes(mismatched: Any) -> Iterator[str]:
    for name, in_file, in_model in sorted(mismatched):
        yield f"{name} is {list(in_file)} in the file, and {list(in_model)} in the model"


def _untied(model: PreTrainedModel, tied: Mapping[str, str]) -> Iterator[str]:
    """Weights that the config says are one, and that are stored twice with different values."""
    for name in sorted(tied.keys() - model.all_tied_weights_keys.keys()):
        yield (
            f"{name} is stored with other values than {tied[name]}, but config.json says that they "
            "are one (tie_word_embeddings: if they are not, set it to false)"
        )


def _twice(model: PreTrainedModel, stored: Mapping[str, Any]) -> Iterator[str]:
    """Weights stored under two names of one place, with and without the decoder's name."""
    prefix = model.base_model_prefix
    twins = [name for name in stored if f"{prefix}.{name}" in stored]
    if twins:
        yield f"stored twice, with and without '{prefix}.': {some(twins)}"


def _no_floats(model: PreTrainedModel, stored: Mapping[str, Any]) -> Iterator[str]:
    """Weights stored as whole numbers: quantised, with scales that nobody names."""
    own = {name for name, _ in model.named_parameters()}
    names = [n for n, tensor in stored.items() if not tensor.is_floating_point() and n in own]
    if names:
        yield f"stored as whole numbers, which are no weights without their scales: {some(names)}"


def _other_frequencies(model: PreTrainedModel, stored: Mapping[str, Any]) -> Iterator[str]:
    """Rotary frequencies that old checkpoints store, where the config gives others."""
    own = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    other = [
        name
        for name, tensor in stored.items()
        if name.endswith("rotary_emb.inv_freq")
        and not any(_same(tensor[...], frequencies) for frequencies in own)
    ]
    if other:
        yield (
            f"rotary frequencies in the file are not those of config.json's rope parameters: "
            f"{some(other)}"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    near = _HALF_PRECISION, 1e-7  # the second: float16's spacing near 0
    return a.shape == b.shape and torch.allclose(a.float(), b.float().cpu(), *near)
