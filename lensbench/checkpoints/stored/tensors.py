"""A checkpoint's tensors, each mapped and checked when it is asked for.

Reading them into new memory takes seven times as much processor time, for the system clears it
first. One that is used just as it is stored stays mapped, and the system may keep it for the next
process. Any other is mapped by itself and leaves memory when it was converted: a mapping stays as
long as one of its tensors is used, 2.2 GB of TinyLlama beside its 1.2 GB in 8 bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.checkpoints.source import INDEX, SINGLE, index_of
from lensbench.checkpoints.stored.finite import Seen
from lensbench.checkpoints.stored.heap import Heap
from lensbench.errors import InputProblems, ModelError, Problem

_FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `seen` looks at what is read of it, `heap` counts it."""

    name: str
    stored: Any  # a slice of safetensors
    seen: Seen
    file: Path
    heap: Heap | None  # None: used as it is stored

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is stored."""
        return tuple(self.stored.get_shape())

    def is_floating_point(self) -> bool:
        """Whether it holds numbers with a point, in whatever width."""
        return str(self.stored.get_dtype()).startswith(("F", "BF"))

    def __getitem__(self, index: Any) -> Tensor:
        if self.heap is None:
            tensor: Tensor = self.stored[index]
        else:
            tensor = open_tensors(self.file).get_slice(self.name)[index]
            self.heap.read(tensor.nbytes)
        self.seen.look(self.name, tensor)
        return tensor


def stored_tensors(
    folder: Path, seen: Seen, as_stored: torch.dtype | None = None
) -> dict[str, StoredTensor]:
    """The tensors of the checkpoint in `folder`, by name. Nothing but headers is read here.

    Args:
        as_stored: tensors of this format will be used just as they are stored.

    Raises InputProblems where the folder holds two sets of weights, or the index and its shards
    disagree: which file a tensor comes from would be chance; and ModelError as `open_tensors`.
    """
    index = index_of(folder)
    names = sorted(set(index.values())) if index else [SINGLE]
    _require_one_set(folder, names)
    files = {name: open_tensors(folder / name) for name in names}
    heap = Heap(sum((folder / name).stat().st_size for name in names))
    held = {name: list(file.keys()) for name, file in files.items()}
    if index:
        _require_agreement(folder / INDEX, index, held)
    found = {}
    for file, tensors in held.items():
        for name in tensors:
            stored = files[file].get_slice(name)
            as_is = as_stored is not None and stored.get_dtype() == _FORMATS[as_stored]
            found[name] = StoredTensor(name, stored, seen, folder / file, None if as_is else heap)
    return found


def open_tensors(path: Path) -> Any:
    """A safetensors file, mapped, its header read. Raises ModelError for a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt", backend="mmap")
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged ({error}). Copy it from the source again.") from error


def _require_one_set(folder: Path, names: list[str]) -> None:
    """The weights are in the files that are read, and in no others of their kind.

    Files of other names may stand beside them: some publishers store the same weights once more,
    as consolidated.safetensors.
    """
    if SINGLE not in names and (folder / SINGLE).is_file():
        what = f"there are weights in {SINGLE} and in the shards of {INDEX}"
        raise InputProblems([Problem(str(folder), what, "Delete those that are out of date.")])
    if SINGLE in names and not (folder / SINGLE).is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))
        what = f"there is neither {SINGLE} nor {INDEX}, only {found}"
        raise InputProblems([Problem(str(folder), what, f"Rename the file to {SINGLE}.")])
    others = {path.name for path in folder.glob("model-*-of-*.safetensors")} - set(names)
    if others:
        what = f"{', '.join(sorted(others))}: weights that would not be read"
        remedy = f"Name their tensors in {INDEX}, or delete the files."
        raise InputProblems([Problem(str(folder), what, remedy)])


def _require_agreement(path: Path, index: Mapping[str, str], held: Mapping[str, list[str]]) -> None:
    """Each shard holds just the tensors that the index says it holds."""
    places = [(tensor, file) for file, tensors in held.items() for tensor in tensors]
    count = Counter(tensor for tensor, _ in places)
    findings = {
        "named in it but not in their shards": [
            tensor for tensor, file in index.items() if tensor not in held[file]
        ],
        "in the shards but not named in it": [
            tensor for tensor, _ in places if tensor not in index
        ],
        "in more than one shard": [tensor for tensor, times in count.items() if times > 1],
    }
    problems = [
        Problem(str(path), f"{len(names)} tensors are {what}: {some(names)}", "Fetch it again.")
        for what, names in findings.items()
        if names
    ]
    if problems:
        raise InputProblems(problems)


def some(names: list[str], limit: int = 5) -> str:
    """The first few of many names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more
