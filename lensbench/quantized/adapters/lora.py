"""Which layers and modules an adapter trains, checked against the model's real modules.

PEFT passes over layers that are not there and targets that match nothing as long as one matches;
here both are errors, and what PEFT adapted in the end is compared with what was asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lensbench.checkpoints.blocks import block_list
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.json_text import read_json
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.precision import is_linear
from lensbench.spec import numbers, ranges

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# What a linear layer in a block is, by the end of its name. Some models keep q, k and v in one.
_PARTS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "self_attn.out_proj": "o",
    "attn.out_proj": "o",
    "attention.out_proj": "o",
    "qkv_proj": "qkv",
    "attn.c_attn": "qkv",
    "attention.query_key_value": "qkv",
    "self_attention.query_key_value": "qkv",
    "attn.qkv_proj": "qkv",
    "attn.Wqkv": "qkv",
    "attn.c_proj": "o",
    "attention.dense": "o",
    "self_attn.dense": "o",
    "self_attention.dense": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
    "fc1": "up",
    "fc2": "down",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
    # Text encoders: BERT, RoBERTa, ELECTRA; DistilBERT.
    "self.query": "q",
    "self.key": "k",
    "self.value": "v",
    "attention.output.dense": "o",
    "intermediate.dense": "up",
    "output.dense": "down",
    "q_lin": "q",
    "k_lin": "k",
    "v_lin": "v",
    "out_lin": "o",
    "ffn.lin1": "up",
    "ffn.lin2": "down",
}
# How many of a block's modules the stream has passed when it comes to one of this kind.
_PLACES = {"q": 0, "k": 0, "v": 0, "qkv": 0, "o": 1, "gate": 2, "up": 2, "down": 3}
_SHORT = ("q", "k", "v", "o", "gate", "up", "down")
_FUSED = {"qkv": frozenset("qkv")}
_LAYERS = "Write all, one number, a range like 15-20, or a list like 0,3,15-20; the first is 0."
_AUTO = "auto:"


@dataclass(frozen=True)
class Matched:
    """The modules that are trained: their full names, and what names them to PEFT."""

    modules: tuple[str, ...]
    layers: tuple[int, ...]  # 0-based
    targets: tuple[str, ...]  # within a block: self_attn.q_proj
    blocks: str  # the name of the list of blocks: model.layers
    n_layers: int
    transposed: bool  # GPT-2's Conv1D keeps its weight as [in, out]

    def lines(self) -> list[str]:
        """What is trained, for reading."""
        layers = ranges(self.layers)
        outputs = ranges([layer + 1 for layer in self.layers])
        return [
            f"{len(self.modules)} modules in blocks {layers} of 0-{self.n_layers - 1} "
            f"(their outputs are layers {outputs} of a record):",
            *(f"{self.blocks}.{{{layers}}}.{target}" for target in self.targets),
        ]


def match(model: PreTrainedModel, lora: Lora) -> Matched:
    """The modules of `model` that `lora` means; the weights may be on the meta device.

    Raises InputProblems naming every setting that is out of range or matches nothing.
    """
    name, blocks = block_list(model)
    linear = {
        path: module for path, module in blocks[0].named_modules() if is_linear(module)
    }  # every block of these models has the same modules
    problems: list[Problem] = []
    layers = _layers(lora.blocks, len(blocks), problems)
    targets = _targets(lora.targets, list(linear), problems)
    if problems:
        raise InputProblems(problems)
    return Matched(
        modules=tuple(f"{name}.{layer}.{target}" for layer in layers for target in targets),
        layers=tuple(layers),
        targets=tuple(targets),
        blocks=name,
        n_layers=len(blocks),
        transposed=not isinstance(linear[targets[0]], nn.Linear),
    )


def _layers(text: str, n_layers: int, problems: list[Problem]) -> list[int]:
    """The blocks that `text` names, sorted; `problems` grows by what is wrong with it."""
    if text == "all":
        return list(range(n_layers))
    if text == "auto":
        remedy = "A study of layers writes such a file; name it: auto:FILE."
        problems.append(Problem("blocks", "no file of chosen layers is named", remedy))
        return []
    if text.startswith(_AUTO):
        text = _from_file(Path(text.removeprefix(_AUTO)), problems) or "0"
    layers: set[int] = set()
    for part in text.split(","):
        try:
            layers |= {*numbers([part])}
        except ValueError:
            problems.append(Problem("blocks", f"{part!r} is no block or range", _LAYERS))
    if layers and max(layers) >= n_layers:
        remedy = f"Give 0 to {n_layers - 1}; blocks are counted from 0."
        problems.append(Problem("blocks", f"the model has no block {max(layers)}", remedy))
    return sorted(layers)


def _from_file(path: Path, problems: list[Problem]) -> str:
    """The layers that a study chose, as the text that a user would write."""
    remedy = 'Give a JSON file that holds {"layers": [15, 16, ...]}, counted from 0.'
    try:
        layers = read_json(path)["layers"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        problems.append(Problem(str(path), f"no layers can be read from it ({error!r})", remedy))
        return ""
    if not isinstance(layers, list) or not layers or any(type(n) is not int for n in layers):
        problems.append(Problem(str(path), "'layers' is no list of whole numbers", remedy))
        return ""
    return ",".join(map(str, layers))


def _targets(text: str, linear: Sequence[str], problems: list[Problem]) -> list[str]:
    """The linear modules of a block that `text` names, in the block's order."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    short = {name for name in names if name in _SHORT}
    found = []
    for path in linear:
        parts = _FUSED.get(_part(path), frozenset({_part(path)}))
        if parts & short and not parts <= short:
            together = ",".join(part for part in _SHORT if part in parts)
            what = f"{path} holds {together} in one matrix"
            remedy = f"Give {together} together, or {path}."
            problems.append(Problem("targets", what, remedy))
        elif parts <= short or any(_ends(path, name) for name in names):
            found.append(path)
    problems += _unmatched(names, linear)
    if not names:
        problems.append(Problem("targets", "it is empty", f"Give some of {', '.join(linear)}."))
    return found


def _unmatched(names: Sequence[str], linear: Sequence[str]) -> list[Problem]:
    """Names that no module of a block has."""
    parts = {path: _FUSED.get(_part(path), {_part(path)}) for path in linear}
    there = {part for own in parts.values() for part in own}
    short = {path: ",".join(part for part in _SHORT if part in own) for path, own in parts.items()}
    shown = ", ".join(f"{path} ({short[path]})" if short[path] else path for path in linear)
    return [
        Problem("targets", f"no module is called {name!r}", f"A block has {shown}.")
        for name in names
        if name not in there and not any(_ends(path, name) for path in linear)
    ]


def _part(path: str) -> str:
    """What a module is by its name, or an empty string."""
    return next((part for name, part in _PARTS.items() if _ends(path, name)), "")


def place(path: str) -> int:
    """Where in its block a linear layer stands: those of one place read the same numbers."""
    return _PLACES.get(_part(path), max(_PLACES.values()))


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


@contextmanager
def hushed() -> Iterator[None]:
    """PEFT asks models for a name that transformers is about to rename; users need not know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        yield


def adapt(
    model: PreTrainedModel,
    matched: Matched,
    lora: Lora,
    base_name: str,
    heads: Sequence[str] | None = None,
) -> PeftModel:
    """Put a fresh adapter onto `model`; only its weights are trainable. B starts at zero.

    `heads`: of a classifier, the modules that are trained whole and kept with the adapter.

    Raises ModelError when PEFT adapted other modules than `matched` names.
    """
    from peft import LoraConfig, get_peft_model

    everywhere = len(matched.layers) == matched.n_layers
    config = LoraConfig(
        task_type="CAUSAL_LM" if heads is None else "SEQ_CLS",
        modules_to_save=None if heads is None else list(heads),
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(matched.targets),
        layers_to_transform=None if everywhere else list(matched.layers),
        fan_in_fan_out=matched.transposed,
    )
    with hushed():
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    got = set(adapted.base_model.targeted_module_names)
    if got != set(matched.modules):
        different = ", ".join(sorted(got ^ set(matched.modules))[:5])
        raise ModelError(f"PEFT adapted other modules than were asked for: {different}.")
    return adapted


def settings_of(lora: Lora, matched: Matched) -> dict[str, Any]:
    """The adapter's part of a manifest's settings, layers and targets as they were resolved."""
    resolved = {"layers": list(matched.layers), "targets": list(matched.targets)}
    return lora.model_dump(exclude={"blocks"}) | resolved
