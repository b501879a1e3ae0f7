"""Residual vectors on disk: safetensors shards, an index of what stands where, a checksum each.

A shard holds the residuals of one batch: one tensor per site ("embed.0", "resid_post.7"), rows of
d_model numbers, so that one layer is one stretch of the file. It says in its header what it is of
and the SHA-256 of each tensor; reading a tensor maps and checks that one and no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lensbench.errors import RecordsError
from lensbench.json_text import parse_json
from lensbench.records.read import MANIFEST, read_table, stored_manifest

if TYPE_CHECKING:
    from torch import Tensor

ITEM_BYTES = {"float32": 4, "bfloat16": 2}

_HEADER = "lensbench"  # one entry: safetensors writes several in no particular order


def shard_name(number: int | str) -> str:
    """A shard's file, from the record's folder; "*" for the files of all."""
    stem = number if isinstance(number, str) else f"{number:06d}"
    return f"residuals/{stem}.safetensors"


def tensor_name(site: str, layer: int) -> str:
    """A site's tensor in every shard."""
    return f"{site}.{layer}"


def shards_of(manifest: Mapping[str, Any]) -> str:
    """What the shards of a record are of: a hash of the model and settings that it was begun with.

    Those that have grown since stand in its manifest as they were.
    """
    narrower = manifest.get("widened") or [{"settings": {}}]
    decides = {"model": manifest["model"]}
    decides["settings"] = manifest["settings"] | narrower[0]["settings"]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def shards_in(folder: Path) -> str:
    """What the shards of the record in a folder are of: by its manifest as it was written."""
    return shards_of(stored_manifest(folder / MANIFEST))


def shard(number: int, tensors: Mapping[str, Tensor], record: str) -> dict[str, bytes]:
    """One batch's residuals as a file: its path in the record's folder, and its bytes.

    The same numbers give the same bytes.

    Args:
        tensors: by `tensor_name`, each [row, d_model], float32 or half precision.
        record: what the shard is of (`shards_of`); a reader that expects another refuses it.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "file": shard_name(number),
        "record": record,
        "sha256": {name: _sha256(tensor) for name, tensor in whole.items()},
    }
    text = json.dumps(header, sort_keys=True)
    return {shard_name(number): save(whole, metadata={_HEADER: text})}


def _sha256(tensor: Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


class ResidualFiles:
    """The residuals that a record holds (a cache, or a run that kept some), read layer by layer.

    `cells` is one row per residual vector: prompt_id, position (0-based, without padding; a trace
    counts on through the response) and token_id (-1 where the record has it elsewhere).
    """

    def __init__(self, folder: Path, record: str | None = None) -> None:
        """Read the index; RecordsError when there is none.

        Args:
            record: what each shard must say that it is of; None takes any.
        """
        self.folder = folder
        self.record = record
        self._checked: set[tuple[str, str]] = set()
        self._index = _read_index(folder)

    @cached_property
    def sites(self) -> list[tuple[str, int]]:
        """(site, layer) of every tensor, in the order the residual stream passes them."""
        pairs = self._index[["site", "layer"]].drop_duplicates().itertuples(index=False)
        found = [(str(site), int(layer)) for site, layer in pairs]
        return sorted(found, key=lambda place: place[1])  # within a layer as they were written

    @cached_property
    def cells(self) -> pd.DataFrame:
        """What each row of `layer` is of."""
        if (self.folder / "residual_cells.parquet").exists():
            return read_table(self.folder, "residual_cells").to_pandas().drop(columns="model")
        rows, counts = self._rows, self._counts
        ids = np.repeat(rows.prompt_id.to_numpy(), counts)
        position = [position for n in counts.tolist() for position in range(n)]
        return pd.DataFrame({"prompt_id": ids, "position": position, "token_id": -1})

    def layer(self, site: str, layer: int) -> Float[np.ndarray, "cell d_model"]:
        """The residual vectors of every cell at one site, float32.

        Raises RecordsError naming a shard that is missing, truncated, altered or of another record.
        """
        return self.at(site, layer, np.arange(len(self._files)))

    def at(
        self, site: str, layer: int, cells: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n d_model"]:
        """The residual vectors of some cells, by their row in `cells`, at one site; float32."""
        if (site, layer) not in self.sites:
            there = ", ".join(tensor_name(*site) for site in self.sites)
            wanted = tensor_name(site, layer)
            raise RecordsError(f"{self.folder} does not hold {wanted}. It holds: {there or '-'}.")
        files, rows = self._files[cells], self._shard_rows[cells]
        vectors: Float[np.ndarray, "n d_model"] = np.empty((0, 0), dtype=np.float32)
        for file in np.unique(files):
            name = self._names[file]
            (where,) = np.nonzero(files == file)
            tensor = self._tensor(name, tensor_name(site, layer))
            if rows[where].max() >= len(tensor):
                raise _damaged(self.folder / name, f"it has only {len(tensor)} rows")
            if not vectors.size:
                vectors = np.empty((len(cells), tensor.shape[1]), dtype=np.float32)
            _copy(tensor, rows[where], vectors, where)
        return vectors

    @property
    def prompt_ids(self) -> list[str]:
        """The prompts, in the order of `cells`."""
        return [str(item) for item in self._rows.prompt_id]

    def n_tokens(self, span: str) -> Int[np.ndarray, " prompt"]:
        """How many cells of each prompt are of a span: "prompt" or "generated" (the answer's)."""
        return self._rows[f"n_{span}_tokens"].to_numpy()

    def means(self, site: str, layer: int, span: str) -> Float[np.ndarray, "prompt d_model"]:
        """Mean residual of each prompt's cells of a span, float32; NaN where it has none.

        Sums are in float64. The same measure as the column `mean` of a trace.
        """
        vectors = self.layer(site, layer)
        n_prompt = self.n_tokens("prompt")
        ends = np.cumsum(self._counts)
        between = ends - self._counts + n_prompt  # the prompt's own cells come first
        starts, stops = (between - n_prompt, between) if span == "prompt" else (between, ends)
        means = np.full((len(starts), vectors.shape[1]), np.nan, dtype=np.float32)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if stop > start:
                means[i] = vectors[start:stop].mean(axis=0, dtype=np.float64)
        return means

    def verify(self) -> Iterator[tuple[str, str | None]]:
        """Check every tensor of every shard; yields each file with what is wrong, or None."""
        names = [tensor_name(*site) for site in self.sites]
        for file in self._names:
            wrong = []
            for name in names:
                try:
                    self._tensor(file, name)
                except RecordsError as error:
                    wrong.append(str(error))
            yield file, "\n".join(dict.fromkeys(wrong)) or None

    @cached_property
    def n_bytes(self) -> int:
        """Size of all shards."""
        return sum((self.folder / name).stat().st_size for name in self._names)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        """The index of one site: the rows of every site stand alike."""
        if not self.sites:
            return self._index
        site, layer = self.sites[0]
        return self._index[(self._index.site == site) & (self._index.layer == layer)]

    @cached_property
    def _counts(self) -> Int[np.ndarray, " prompt"]:
        return (self._rows.n_prompt_tokens + self._rows.n_generated_tokens).to_numpy()

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(self._rows.file))

    @cached_property
    def _files(self) -> Int[np.ndarray, " cell"]:
        """Which shard each cell is in, as an index into `_names`."""
        number = {name: i for i, name in enumerate(self._names)}
        files = np.array([number[name] for name in self._rows.file], dtype=np.int64)
        return np.repeat(files, self._counts)

    @cached_property
    def _shard_rows(self) -> Int[np.ndarray, " cell"]:
        """Which row of its shard each cell is."""
        first = zip(self._rows.first_row, self._counts, strict=True)
        spans = [np.arange(start, start + n) for start, n in first]
        return np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)

    def _tensor(self, file: str, name: str) -> Tensor:
        """One tensor, mapped into memory; checked the first time."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / file
        try:
            with safe_open(path, framework="pt") as shard:
                tensor = shard.get_tensor(name)
                header = parse_json((shard.metadata() or {}).get(_HEADER, "null"))
        except FileNotFoundError as error:
            raise _damaged(path, "it is missing") from error
        except (SafetensorError, ValueError) as error:
            raise _damaged(path, f"it is truncated or altered ({error})") from error
        if (file, name) not in self._checked:
            self._check(path, file, name, tensor, header)
            self._checked.add((file, name))
        return tensor

    def _check(self, path: Path, file: str, name: str, tensor: Tensor, header: Any) -> None:
        if header is None and self.record is None:  # of a trace older than checksums
            return
        if not isinstance(header, dict) or header.get("file") != file:
            raise _damaged(path, "it is no shard of this place")
        if self.record is not None and header.get("record") != self.record:
            raise _damaged(path, "it is a shard of another record")
        told = header.get("sha256")
        if not isinstance(told, dict) or _sha256(tensor) != told.get(name):
            raise _damaged(path, f"its tensor {name} was altered (its checksum is another)")


def _copy(
    tensor: Tensor,
    rows: Int[np.ndarray, " n"],
    vectors: Float[np.ndarray, "cell d_model"],
    where: Int[np.ndarray, " n"],
) -> None:
    """Rows of a mapped tensor into rows of `vectors`, in one pass where both stand together."""
    import torch

    torch.from_numpy(vectors)[_span(where)] = tensor[_span(rows)].float()


def _span(rows: Int[np.ndarray, " n"]) -> slice | Int[np.ndarray, " n"]:
    """Consecutive rows as a slice, which needs no copy."""
    together = bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else rows


def _read_index(folder: Path) -> pd.DataFrame:
    path = folder / "residual_index.parquet"
    if not path.exists():
        raise RecordsError(
            f"{path}: there is no such index. Name the folder of a complete residual cache, or of "
            "a trace that kept layers."
        )
    return read_table(folder, "residual_index").to_pandas()


def _damaged(path: Path, what: str) -> RecordsError:
    return RecordsError(
        f"{path}: {what}. Delete this record and make it again; the other shards and, if only one "
        "tensor was altered, the other layers of this one can still be read."
    )
