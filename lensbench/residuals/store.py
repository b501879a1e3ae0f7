"""The residual cache: which positions are kept, as a part of a record, and back as `Residuals`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.models.model import LensModel
from lensbench.models.readout import EVERY, Readout
from lensbench.models.sites import Site
from lensbench.prompts.encode import EncodedPrompt
from lensbench.records.open import open_record
from lensbench.records.read import MANIFEST
from lensbench.records.record import Record
from lensbench.records.residuals import shard, shard_name, tensor_name
from lensbench.records.schema.residuals import RESIDUAL_CELLS, RESIDUAL_INDEX
from lensbench.residuals.capture import Cell

Kept = Literal["last", "all", "answer"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class KeptPrompt:
    """A prompt as it goes through the model for the cache, and the positions that are kept."""

    prompt: EncodedPrompt
    token_ids: tuple[int, ...]
    positions: range

    @property
    def n_of_prompt(self) -> int:
        """Kept positions that are the prompt's own."""
        return sum(position < len(self.prompt.token_ids) for position in self.positions)


def keep(prompt: EncodedPrompt, positions: Kept, n_ctx: int) -> KeptPrompt:
    """What is kept of a prompt of n tokens.

    "last": position n - 1, which predicts the answer. "all": positions 0 to n - 1. "answer": the
    positions that predict each of the answer's k tokens when the answer stands in the text, n - 1
    to n + k - 2; the model reads the prompt and, appended, the answer but for its last token. A
    prompt without an answer keeps position n - 1 then.

    Raises InputProblems when prompt and answer are longer than the context.
    """
    n, ids = len(prompt.token_ids), prompt.token_ids
    if positions == "last":
        return KeptPrompt(prompt, ids, range(n - 1, n))
    if positions == "all":
        return KeptPrompt(prompt, ids, range(n))
    ids += prompt.answer.token_ids[:-1] if prompt.answer else ()
    if len(ids) > n_ctx:
        what = f"with its answer it has {len(ids):,} tokens, the model's context holds {n_ctx:,}"
        remedy = "Shorten it, or keep --positions last."
        item = prompt.prompt.id
        raise InputProblems([Problem(f"prompt {item}", what, remedy, prompt_id=item)])
    return KeptPrompt(prompt, ids, range(n - 1, len(ids)))


def kept_part(
    number: int,
    model: LensModel,
    kept: Sequence[KeptPrompt],
    stream: dict[Site, Float[Tensor, "cell d_model"]],
    record: str,
) -> tuple[dict[str, pa.Table], dict[str, bytes]]:
    """The residuals of one batch for a record: what the index says of them, and their shard.

    Args:
        stream: by site, rows prompt after prompt as `capture_positions` gives them, in the number
            format that goes to disk.
        record: what the shard is of (see `shard`).
    """
    tensors = {tensor_name(site.name, site.layer): rows for site, rows in stream.items()}
    first = np.cumsum([0, *(len(item.positions) for item in kept)]).tolist()
    index = [
        {
            "model": model.name,
            "prompt_id": item.prompt.prompt.id,
            "site": site.name,
            "layer": site.layer,
            "depth": site.depth(model.n_layers),
            "file": shard_name(number),
            "tensor": tensor_name(site.name, site.layer),
            "first_row": start,
            "n_prompt_tokens": item.n_of_prompt,
            "n_generated_tokens": len(item.positions) - item.n_of_prompt,
        }
        for start, item in zip(first, kept, strict=False)
        for site in stream
    ]
    cells = [
        {
            "model": model.name,
            "prompt_id": item.prompt.prompt.id,
            "position": position,
            "token_id": item.token_ids[position],
        }
        for item in kept
        for position in item.positions
    ]
    tables = {
        "residual_index": RESIDUAL_INDEX.of_rows(index),
        "residual_cells": RESIDUAL_CELLS.of_rows(cells),
    }
    return tables, shard(number, tensors, record) if kept else {}


def open_cache(folder: str | Path) -> ResidualCache:
    """Open a complete residual cache; no residual is read yet.

    Raises RecordsError when the folder holds none, or one that is not complete.
    """
    record = open_record(folder) if (Path(folder) / MANIFEST).exists() else None
    if record is None or record.kind != "cache":
        raise RecordsError(f"{folder}: no residual cache. Make one with: lensbench cache")
    return ResidualCache(record)


class ResidualCache:
    """Residual vectors of one model over one prompt set, read from disk a layer at a time.

    >>> cache = open_cache("runs/cache")
    >>> cache.layer(7).shape  # the stream after 7 blocks, blocks.6.resid_post: [cell, d_model]
    >>> cache.cells  # prompt_id, position and token_id of each row
    """

    def __init__(self, record: Record) -> None:
        assert record.residuals is not None  # a cache is of them
        self.record, self.files = record, record.residuals
        self.sites = [Site.of(name, layer) for name, layer in self.files.sites]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.record.folder

    @property
    def cells(self) -> pd.DataFrame:
        """prompt_id, position (0-based, without padding) and token_id of each row of a layer."""
        return self.files.cells

    def layer(self, site: Site | str | int) -> Float[Tensor, "cell d_model"]:
        """All residual vectors at a site, float32, by its name, or by the layer of a state.

        Only this site's bytes are read. Raises RecordsError for a site that was not kept, and
        names a shard that is missing, truncated or altered.
        """
        chosen = _site(site)
        return torch.from_numpy(self.files.layer(chosen.name, chosen.layer))

    def residuals(
        self,
        model: LensModel,
        prompt_ids: Sequence[str],
        wanted: Sequence[Sequence[int]],
        sites: Sequence[Site],
    ) -> CachedResiduals:
        """The residuals of some prompts at the wanted positions of each, for the lens.

        `sites` hold the model's last one: its logits are made from that.
        """
        cells = [(row, position) for row, positions in enumerate(wanted) for position in positions]
        rows = np.array([self._row(prompt_ids[row], position) for row, position in cells])
        stream = [torch.from_numpy(self.files.at(s.name, s.layer, rows)) for s in sites]
        whole = torch.stack(stream).to(model.device)
        return CachedResiduals(list(sites), cells, whole, model.readout, model.final_site)

    def _row(self, prompt_id: str, position: int) -> int:
        row = self._rows.get((prompt_id, position))
        if row is None:
            raise RecordsError(
                f"{self.folder} does not hold position {position} of prompt '{prompt_id}': it "
                f"keeps --positions {self.record.settings['positions']}. Make one of others."
            )
        return row

    @property
    def dtype(self) -> torch.dtype:
        """The number format on disk."""
        return DTYPES[self.record.settings["residual_dtype"]]

    @property
    def gate_kl_bits(self) -> float:
        """KL(model || the readout of the last layer as it is on disk), the worst cell.

        NaN where there is no cell at all.
        """
        found = self.record.manifest["stored_kl_bits"]
        return math.nan if found is None else float(found)

    @cached_property
    def _rows(self) -> dict[tuple[str, int], int]:
        pairs = zip(self.cells.prompt_id, self.cells.position.tolist(), strict=True)
        return {pair: row for row, pair in enumerate(pairs)}

    def facts(self) -> list[str]:
        """What is here, in words, for people."""
        made, model = self.record.settings, self.record.model
        return [
            f"model {model['name']}, {model['dtype']}, weights {model['weights_sha256'][:16]}, "
            f"tokenizer {model['tokenizer_sha256'][:16]}",
            f"prompts {made['prompts']}, {made['template']}, {made['prompts_sha256'][:16]}; "
            f"skipped: {self.record.manifest['problems']}",
            "sites " + " ".join(tensor_name(site.name, site.layer) for site in self.sites),
            f"{self.files.n_bytes / 1e6:,.1f} MB; the last layer on disk is the model within "
            f"{self.gate_kl_bits:.1e} bits",
        ]

    def __repr__(self) -> str:
        settings = self.record.settings
        return (
            f"ResidualCache({self.record.name}: {len(self.cells):,} cells of "
            f"{self.cells.prompt_id.nunique():,} prompts x {len(self.sites)} sites, positions "
            f"{settings['positions']}, {settings['residual_dtype']}, {self.folder})"
        )


@dataclass(frozen=True)
class CachedResiduals:
    """`Residuals` from disk. The model's logits are made from its last layer, by its readout."""

    sites: list[Site]
    cells: list[Cell]
    stream: Float[Tensor, "site cell d_model"]
    readout: Readout
    last: Site

    def at(self, site: Site) -> Float[Tensor, "cell d_model"]:
        """The residual vectors of all cells at one site."""
        return self.stream[self.sites.index(site)]

    def model_logits(self, cells: slice, tokens: slice = EVERY) -> Float[Tensor, "cell token"]:
        """The model's logits at some of the cells, rounded as it rounds them."""
        return self.readout.rounded(self.readout.norm(self.at(self.last)[cells]), tokens)

    def broken_rows(self) -> set[int]:
        """Rows that hold NaN or Inf: none, they were skipped when the cache was made."""
        return set()


def _site(site: Site | str | int) -> Site:
    if isinstance(site, int):
        return Site.state(site)
    return site if isinstance(site, Site) else Site.parse(site)
