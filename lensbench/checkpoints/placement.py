"""Where a model lies: on one device, or its blocks spread over GPUs, the processor and a disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.devices import existing, gb, memory_available, pick_device
from lensbench.checkpoints.families import weight_bytes
from lensbench.device import DISK, is_spread, named
from lensbench.errors import InputProblems, ModelError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_THERE = "Name devices that this machine has (`lensbench doctor` shows them)."
# Of a device's free memory, what weights may take; the rest is for the passes through them.
_SHARE = 0.9
_SMALLER = "Take a smaller model (`lensbench models` shows sizes)"
_LARGER = f"{_SMALLER} or a machine with more memory."
# Of a predicted peak what it may be off by: of the whole process, which takes so much by itself.
_ERROR = 0.1
PROGRAM = 550 << 20  # Python, torch and transformers, on a CPU


@dataclass(frozen=True)
class Place:
    """A device, and the bytes of weights that it may hold where somebody said how many."""

    device: str  # cuda:0, mps, cpu, disk
    limit: int | None = None

    def room(self, folder: Path | None = None) -> int:
        """Bytes of weights that there is room for."""
        if self.device == DISK:
            assert folder is not None
            free = shutil.disk_usage(folder).free
        else:
            free = memory_available(self.device)
        return free if self.limit is None else min(self.limit, free)


@dataclass(frozen=True)
class Placement:
    """The devices of a model, those that compute first, and a folder for what is on disk.

    Embedding, head and final norm are on the first of them, the `main` one; blocks follow each
    other onto it and, where it is full, onto the next. Blocks in memory beside a GPU, or on disk,
    are brought to the main device for each pass, module by module.
    """

    places: tuple[Place, ...]
    folder: Path | None = None

    @classmethod
    def of(cls, device: str | None) -> Placement:
        """What `device` says: one device, as `pick_device` takes it, `auto`, or several.

        `auto` is all GPUs and the processor. Raises ModelError for a device that is not there,
        InputProblems with all that is wrong with a list.
        """
        if device is None or not is_spread(device):
            return cls((Place(pick_device(device)),))
        listed = named(device)
        folder = next((one.folder for one in listed if one.folder is not None), None)
        found: dict[str, Place] = {}
        problems: list[Problem] = []
        for one in listed:
            for name in _here(one.name):
                try:
                    place = Place(name if name == DISK else existing(name), one.n_bytes)
                except ModelError as error:
                    problems.append(Problem("device", str(error).rstrip("."), _THERE))
                    continue
                if place.device in found:
                    problems.append(Problem("device", f"{name} stands twice", "Name it once."))
                found[place.device] = place
        if problems:
            raise InputProblems(problems)
        return cls(tuple(sorted(found.values(), key=_order)), folder)

    @property
    def main(self) -> str:
        """The device that inputs go to and logits come from."""
        return self.places[0].device

    @property
    def spread(self) -> bool:
        """Whether there is more than one."""
        return len(self.places) > 1

    @property
    def room(self) -> int:
        """Bytes of weights that there is room for on all of them."""
        return sum(place.room(self.folder) for place in self.places)

    def rooms(self) -> str:
        """How much there is where, in words."""
        return " + ".join(f"{gb(p.room(self.folder))} on {p.device}" for p in self.places)

    def plan(self, model: PreTrainedModel, size: Callable[[nn.Module], float]) -> Plan | None:
        """Which module goes where; None where all of it fits on the main device.

        Args:
            model: its shapes; the weights may be on the meta device.
            size: bytes of the weights of a module and all beneath it.

        Raises ModelError, with the sums, where there is no room for it.
        """
        if not self.spread or size(model) <= self._rooms()[0]:
            return None
        name, blocks = block_list(model)
        sizes = [size(block) for block in blocks]
        devices = self._fill(sizes, size(model) - sum(sizes))
        where = dict.fromkeys(_beside(model, name), self.main)
        where |= {f"{name}.{number}": device for number, device in enumerate(devices)}
        return Plan(where, self.main, self.folder)

    def _rooms(self) -> list[int]:
        """Bytes of weights that each may hold: of free memory that nobody named, a share."""
        rooms = [place.room(self.folder) for place in self.places]
        unnamed = [place.limit is None and place.device != DISK for place in self.places]
        return [int(_SHARE * r) if own else r for r, own in zip(rooms, unnamed, strict=True)]

    def _fill(self, sizes: list[float], rest: float) -> list[str]:
        """The device of each block, of so many bytes; `rest` is on the main one."""
        free = self._rooms()
        # Room for the block that is brought in, and for what stays of the model there.
        free[0] -= int(rest) + (int(max(sizes)) if self.places[-1].device in ("cpu", DISK) else 0)
        devices, at = [], 0
        for taken in sizes:
            while at < len(free) and free[at] < taken:
                at += 1
            if at == len(free) or free[0] < 0:
                raise ModelError(
                    f"{gb(int(sum(sizes) + rest))} of weights do not fit: there is room for "
                    f"{self.rooms()}, of which {self.main} also takes embedding, head and the "
                    f"block that is being computed ({gb(int(rest + max(sizes)))}). {_more(self)}"
                )
            free[at] -= int(taken)
            devices.append(self.places[at].device)
        return devices


@dataclass(frozen=True)
class Plan:
    """Which module is on which device, by its name; `folder` is for those on disk."""

    where: dict[str, str]
    main: str
    folder: Path | None

    @property
    def map(self) -> dict[str, str | int]:
        """The same as accelerate takes it: it computes on the first GPU, if they are numbers."""
        return {name: _index(device) for name, device in self.where.items()}

    @property
    def offloads(self) -> bool:
        """Whether some weights are elsewhere than they are computed with."""
        away = {DISK} if self.main == "cpu" else {DISK, "cpu"}
        return not away.isdisjoint(self.where.values())


def placed_facts(model: Any) -> dict[str, Any]:
    """Of a model that is spread, for a manifest: how many blocks are where; else nothing."""
    found = getattr(model, "hf_device_map", None) or {}
    if len({*found.values()}) < 2:
        return {}
    own = [device for name, device in found.items() if name.rpartition(".")[2].isdigit()]
    named = (f"cuda:{one}" if isinstance(one, int) else str(one) for one in own)
    return {"blocks_on": dict(sorted(Counter(named).items()))}


def require_fit(
    n_params: int,
    dtype: torch.dtype | str,
    where: Placement,
    in_8_bits: Callable[[], int] | None = None,
    beside: Callable[[int], int] = lambda bits: 0,
    always: bool = False,
) -> None:
    """Raise ModelError, with the sum, when a model and its use exceed the memory that is there.

    Counted over all devices of `where`, its disk included. `in_8_bits`: what loading it so takes
    at its peak, of a model whose name may say so. `beside`: what is held beside weights of so many
    bits, as `least_bytes` has it. `always`: it is read in no other format.
    """
    each, available = weight_bytes(1, dtype), where.room
    weights, more = n_params * each, beside(8 * each)
    if least_bytes(weights, more, where) <= available:
        return
    half = least_bytes(2 * n_params, beside(16), where)
    fits = each > 2 and half <= available
    remedy = _LARGER if always else _way_out(where, in_8_bits)
    if fits and not always:
        remedy = f"Try --dtype bfloat16 ({gb(half)}), or NAME@16 where there is no such option."
    name = str(dtype).removeprefix("torch.")
    raise ModelError(
        f"{n_params:.3g} parameters x {each} bytes ({name}) = {gb(weights)}"
        f"{said_beside(more, where)}, but {where.rooms()} are available. {remedy}"
    )


def least_bytes(weights: int, beside: int, where: Placement) -> int:
    """What is needed at least: the weights, and with them what a verb holds `beside` them.

    With what the program takes, that sum is within a tenth of what a process takes on a CPU;
    elsewhere it was not measured, and weights alone count.
    """
    if where.spread or where.main != "cpu":
        return weights
    return max(weights, int((1 - _ERROR) * (weights + beside) - _ERROR * PROGRAM))


def said_beside(beside: int, where: Placement) -> str:
    """The same in words, for a sum."""
    return f", and {gb(beside)} beside them at the peak" if beside and where.main == "cpu" else ""


def _way_out(where: Placement, in_8_bits: Callable[[], int] | None) -> str:
    if in_8_bits is None or where.spread:
        return _LARGER
    if (eighth := in_8_bits()) <= where.room:
        return f"It would fit in 8 bits: NAME@8 ({gb(eighth)}); or take a smaller model."
    main = "cpu" if where.main == "mps" else where.main  # from which nothing is spread
    return f"{_SMALLER}, or read its blocks from a disk: --device {main},disk=FOLDER."


def _here(name: str) -> Iterator[str]:
    """What a device of a list stands for on this machine."""
    if name == "auto":
        yield from (f"cuda:{index}" for index in range(torch.cuda.device_count()))
        yield "cpu"
    else:
        yield "cuda:0" if name == "cuda" else name


def _order(place: Place) -> tuple[int, int]:
    """GPUs by their number, then the processor, then the disk."""
    kind, _, index = place.device.partition(":")
    return ["cuda", "cpu", DISK].index(kind), int(index or 0)


def _index(device: str) -> str | int:
    kind, _, index = device.partition(":")
    return int(index) if kind == "cuda" else device


def _beside(model: nn.Module, blocks: str) -> Iterator[str]:
    """The names of all modules and weights that are outside of the list of blocks."""

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        yield from (prefix + name for name, _ in own)
        for name, child in module.named_children():
            path = prefix + name
            if blocks.startswith(f"{path}."):
                yield from walk(child, f"{path}.")
            elif path != blocks:
                yield path

    yield from walk(model, "")


def _more(placement: Placement) -> str:
    if placement.folder is None:
        return "Add disk=FOLDER to the devices (slower: blocks are read for each pass)."
    return "Raise the sizes, take fewer bits, or a smaller model."
