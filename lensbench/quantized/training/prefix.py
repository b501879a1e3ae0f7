"""The prefix cache: what enters the lowest adapted block, computed once and read back after.

Where only upper blocks train, everything below them puts out the same numbers in every epoch. So
these are written to disk once, the blocks that made them are dropped, and what stands in their
place hands the kept states to the rest of the model's own forward pass. Freezing the lower part
and caching it was described before (AutoFreeze, Liu et al. 2021; Egeria, Wang et al. 2023).
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.errors import ModelError
from lensbench.files import replacing
from lensbench.progress import Progress, Watch, ignore
from lensbench.prompts.batch import make_batch, plan_batches


class _ReachedError(Exception):
    """The forward pass arrived at the block whose input was wanted; the rest is not needed."""


class PassThrough(nn.Module):
    """Stands where a block stood: keeps the attributes that the model's loop asks it for."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, value in vars(block).items():
            if not name.startswith("_"):
                setattr(self, name, value)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """The residual stream as it came."""
        return hidden_states


class Entry(PassThrough):
    """The last block that was dropped: puts out the kept states of the current batch."""

    states: Float[Tensor, "batch pos d_model"]

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """`states`, whatever came."""
        if self.states.shape != hidden_states.shape:
            raise ModelError(
                f"The kept states {tuple(self.states.shape)} are not of this batch "
                f"{tuple(hidden_states.shape)}."
            )
        return self.states


@dataclass(frozen=True)
class States:
    """A file of states, one row a token, examples in the order of the batches that made them."""

    path: Path
    n_tokens: int
    d_model: int
    dtype: torch.dtype
    first_row: Mapping[int, int]  # of each example
    lengths: Sequence[int]
    batches: Sequence[Sequence[int]]  # that make them

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self.n_tokens * self.d_model * self.dtype.itemsize

    def batch(self, items: Sequence[int]) -> Float[Tensor, "batch pos d_model"]:
        """The states of some examples, padded on the right with zeros."""
        width = max(self.lengths[item] for item in items)
        states = torch.zeros(len(items), width, self.d_model, dtype=self.dtype)
        rows = self._rows()
        for row, item in enumerate(items):
            start, length = self.first_row[item], self.lengths[item]
            states[row, :length] = rows[start : start + length]
        return states

    def _rows(self) -> Float[Tensor, "tokens d_model"]:
        """The whole file, mapped and not read."""
        size = self.n_tokens * self.d_model
        flat = torch.from_file(str(self.path), shared=False, size=size, dtype=self.dtype)
        return flat.view(self.n_tokens, self.d_model)


def obstacle(blocks: nn.ModuleList, backbone: nn.Module, first: int) -> str | None:
    """Why what enters block `first` cannot be kept, or None when it can.

    Dropout anywhere below would make it another in each epoch.
    """
    if first == 0:
        return "block 0 is trained, and below it there is only the embedding"
    above = {id(module) for block in [*blocks][first:] for module in block.modules()}
    for name, module in backbone.named_modules():
        if id(module) not in above and (chance := _chance(module)) is not None:
            return f"{name} has {chance}, so what it puts out changes in every epoch"
    return None


def _chance(module: nn.Module) -> str | None:
    """What makes a module's output random in training, and how much of it, or None.

    A dropout module; or a rate that the module hands to a function (attention_dropout, layerdrop,
    the jitter of a router).
    """
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p:g}" if module.p else None
    rates = {k: v for k, v in vars(module).items() if "drop" in k or "jitter" in k}
    found = [f"{k} {v:g}" for k, v in rates.items() if isinstance(v, float) and v > 0]
    return found[0] if found else None


def state_file(
    folder: Path,
    token_ids: Sequence[Sequence[int]],
    batch_tokens: int,
    d_model: int,
    dtype: torch.dtype,
    facts: Mapping[str, Any],
    switch: int | None = None,
) -> States:
    """Where the states of `token_ids` go; the name says what decided them, `facts` included.

    Batches part at `switch`, beyond which a sequence is read by other rotary frequencies.
    """
    lengths = [len(ids) for ids in token_ids]
    batches = plan_batches(lengths, batch_tokens, switch)
    order = [item for items in batches for item in items]
    first_row, n_tokens = {}, 0
    for item in order:
        first_row[item] = n_tokens
        n_tokens += lengths[item]
    decides = [list(map(list, token_ids)), batch_tokens, d_model, str(dtype), dict(facts)]
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"prefix-{name}.bin"
    return States(path, n_tokens, d_model, dtype, first_row, lengths, batches)


def require_room(states: States) -> None:
    """Raise ModelError, with the sum, when the disk cannot hold the states."""
    states.path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(states.path.parent).free
    if states.n_bytes > free:
        raise ModelError(
            f"The prefix cache needs {states.n_tokens:,} tokens x {states.d_model} x "
            f"{states.dtype.itemsize} bytes = {states.n_bytes / 1e9:.2f} GB, but "
            f"{free / 1e9:.2f} GB are free in {states.path.parent}. Free some space, or train "
            "without --cache-prefix."
        )


def write_states(
    states: States,
    model: nn.Module,
    block: nn.Module,
    token_ids: Sequence[Sequence[int]],
    progress: Watch = ignore,
) -> None:
    """Compute what enters `block` for every example, in evaluation mode, and write it.

    The file is there as a whole or not at all. Raises OSError when the disk is full.
    """
    model.eval()
    batches = states.batches
    with replacing(states.path) as handle, torch.no_grad():
        for number, items in enumerate(batches):
            progress(Progress("prefix cache", number, len(batches), "batches"))
            batch = make_batch(items, token_ids)
            found = entering(model, block, batch.token_ids, batch.attention_mask)
            if found.dtype != states.dtype:
                raise ModelError(f"The states are {found.dtype}, not {states.dtype} as planned.")
            for row, item in enumerate(items):
                own = found[row, : states.lengths[item]].contiguous()
                handle.write(own.cpu().view(torch.uint8).numpy().data)
    progress(Progress("prefix cache", len(batches), len(batches), "batches"))


def entering(
    model: nn.Module, block: nn.Module, token_ids: Tensor, attention_mask: Tensor
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that enters `block`; the forward pass ends there."""
    device = next(model.parameters()).device
    caught: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught.append(arguments[0] if arguments else named["hidden_states"])
        raise _ReachedError

    with block.register_forward_pre_hook(stop, with_kwargs=True):
        try:
            model(
                input_ids=token_ids.to(device),
                attention_mask=attention_mask.to(device),
                use_cache=False,
            )
        except _ReachedError:
            return caught[0]
    raise ModelError(f"The forward pass never reached {type(block).__name__}.")


def put_back(blocks: nn.ModuleList, dropped: Sequence[nn.Module]) -> None:
    """Put blocks that somebody kept in the place of those that stand there for them."""
    for index, block in enumerate(dropped):
        blocks[index] = block


def release(blocks: nn.ModuleList, first: int) -> Entry:
    """Drop the blocks below `first`, weights and all; returns what now feeds block `first`."""
    for index in range(first - 1):
        blocks[index] = PassThrough(blocks[index])
    entry = Entry(blocks[first - 1])
    blocks[first - 1] = entry
    gc.collect()
    return entry
