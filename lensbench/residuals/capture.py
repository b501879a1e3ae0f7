"""Capture: one forward pass, and of it only what somebody asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.errors import InputProblems, ModelError, Problem, first_line
from lensbench.models.forward import attention_in_memory, forward
from lensbench.models.model import LensModel, Wanted, require_loaded
from lensbench.models.prefix import common_prefix, empty_cache
from lensbench.models.readout import EVERY
from lensbench.models.sites import STREAM, VECTORS, Site
from lensbench.prompts.batch import Batch, PaddingSide, make_batch, plan_batches
from lensbench.prompts.encode import encode_ids
from lensbench.prompts.prompt import One, Prompts, is_one

Cell = tuple[int, int]  # (row of the batch, column of the batch)


@dataclass(frozen=True)
class Residuals:
    """`stream[s, c]` is the vector of cell c at site s; `logits` are the model's own.

    They are those of the batch's `columns` in which there is a cell (None: of every one). Of a
    pass without its head there are none: d_vocab is 0.
    """

    sites: list[Site]
    cells: list[Cell]
    stream: Float[Tensor, "site cell d_model"]
    logits: Float[Tensor, "batch column d_vocab"]
    columns: list[int] | None = None

    def at(self, site: Site) -> Float[Tensor, "cell d_model"]:
        """The residual vectors of all cells at one site."""
        return self.stream[self.sites.index(site)]

    def model_logits(self, cells: slice, tokens: slice = EVERY) -> Float[Tensor, "cell token"]:
        """The model's own logits at some of the cells, of a range of the vocabulary, float32."""
        rows, columns = self._in_logits
        return self.logits[rows[cells], columns[cells], tokens].float()

    @cached_property
    def _in_logits(self) -> Int[Tensor, "2 cell"]:
        """Where in `logits` each cell is, beside them: lists would be copied there at each use."""
        columns = range(self.logits.shape[1]) if self.columns is None else self.columns
        place = {column: i for i, column in enumerate(columns)}
        found = [(row, place[column]) for row, column in self.cells]
        return torch.tensor(found, dtype=torch.long, device=self.logits.device).reshape(-1, 2).T

    def broken_rows(self) -> set[int]:
        """Rows whose residual stream or logits hold NaN or Inf at one of the cells."""
        bad = ~_all_finite(self.stream).all(0)  # [cell]
        if self.logits.shape[-1]:
            bad |= ~_all_finite(self.logits)[tuple(self._in_logits)]
        return {row for (row, _), is_bad in zip(self.cells, bad.tolist(), strict=True) if is_bad}


def _all_finite(numbers: Float[Tensor, "*cell number"]) -> Bool[Tensor, "*cell"]:
    """By the least and the largest, which are NaN where one is: `isfinite` takes as much again."""
    return torch.stack(numbers.aminmax(dim=-1)).isfinite().all(0)


def capture(
    model: LensModel,
    batch: Batch,
    sites: Sequence[Site],
    cells: Sequence[Cell],
    cache: Any = None,
    head: bool = True,
) -> Residuals:
    """Run `batch` once and keep the vectors at `sites`, for `cells` only.

    `cache` as for `forward`. Without the `head` the pass ends behind the last block.

    Memory beyond the forward pass itself: `len(sites) * len(cells) * d_model` numbers.

    Raises InputProblems for a site that has no vector of d_model numbers: `watch` takes any.
    """
    sites, cells = list(sites), list(cells)
    _require_vectors(sites)
    rows, columns = torch.tensor(cells, dtype=torch.long, device=model.device).reshape(-1, 2).T
    stream = torch.empty(
        (len(sites), len(cells), model.d_model), dtype=torch.float32, device=model.device
    )
    place = {site: index for index, site in enumerate(sites)}

    def keep(site: Site, value: Float[Tensor, "batch pos d_model"]) -> None:
        where = value.device  # blocks of a model on several devices have their own
        stream[place[site]] = value[rows.to(where), columns.to(where)]

    read = sorted({column for _, column in cells})
    logits = watch(model, batch, sites, keep, cache, read if head else [])
    return Residuals(sites, cells, stream, logits, read)


def capture_positions(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    sites: Sequence[Site],
    padding_side: PaddingSide = "right",
    head: bool = True,
) -> Residuals:
    """Run prompts as one batch; the residuals at some positions of each, prompt after prompt.

    Positions count from 0, without padding. A long beginning that all have in common is run once.
    `head` and what is raised: as of `capture`.
    """
    n = common_prefix(token_ids) if padding_side == "right" and _in_stream(sites) else 0
    if n and model.shares_prefixes:
        return _behind(model, token_ids, positions, sites, n, head)
    batch = make_batch(range(len(token_ids)), token_ids, padding_side)
    starts = [batch.column(row, 0) for row in range(len(token_ids))]
    cells = [(row, starts[row] + p) for row, own in enumerate(positions) for p in own]
    return capture(model, batch, sites, cells, head=head)


def _in_stream(sites: Sequence[Site]) -> bool:
    """Heads are taken apart by TransformerLens itself, which keeps no keys and values."""
    return all(site.kind in STREAM for site in sites)


def _behind(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    sites: Sequence[Site],
    n: int,
    head: bool,
) -> Residuals:
    """The same by two passes: over the first `n` tokens, which all share, and over the others."""
    rows, cache = range(len(token_ids)), empty_cache(model.bridge)
    cells = [(row, p) for row, own in enumerate(positions) for p in own]
    shared = sorted({p for _, p in cells if p < n})
    first = make_batch([0], [token_ids[0][:n]])
    before = capture(model, first, sites, [(0, p) for p in shared], cache, head)
    cache.batch_repeat_interleave(len(token_ids))
    rest = make_batch(rows, [own[n:] for own in token_ids])
    after = capture(model, rest, sites, [(row, p - n) for row, p in cells if p >= n], cache, head)
    place = {p: i for i, p in enumerate(shared)}
    later = iter(range(len(after.cells)))
    order = [place[p] if p < n else len(shared) + next(later) for _, p in cells]
    stream = torch.cat([before.stream, after.stream], dim=1)[:, order]
    parts = [(one, n * i) for i, one in enumerate((before, after)) if one.columns]
    logits = torch.cat([one.logits.expand(len(rows), -1, -1) for one, _ in parts], dim=1)
    columns = [start + column for one, start in parts for column in one.columns or []]
    return Residuals(list(sites), cells, stream, logits, columns)


def watch(
    model: LensModel,
    batch: Batch,
    sites: Sequence[Site],
    see: Callable[[Site, Tensor], None],
    cache: Any = None,
    columns: Sequence[int] | None = None,
) -> Float[Tensor, "batch column d_vocab"]:
    """Run `batch` once; `see` is handed each site's value when the pass is there. None is kept.

    Values have the model's dtype and the shapes in `models.sites.HOOKS`, without the head's axis
    for a site of one head. Returns the model's own logits; where no column is wanted the pass
    ends behind the last block, and there are none (d_vocab = 0). `columns`, `cache` as for
    `forward`.

    Raises ModelError for a site that the pass does not come by or that is switched off, and when
    heads are wanted of a model that has no separate outputs of them.
    """
    waiting = set(sites)

    def hook_of(site: Site) -> Callable[..., None]:
        def hook(value: Tensor, hook: object) -> None:
            waiting.discard(site)
            see(site, site.part(value))

        return hook

    hooks = [(site.hook, hook_of(site)) for site in sites]
    if columns is not None and not columns:
        hooks.append((model.final_site.hook, _end))
    separate = any(site.kind == "head_out" for site in sites)
    with torch.inference_mode(), _head_outputs(model) if separate else nullcontext():
        _require_on(model, hooks)
        try:
            logits = forward(model.bridge, batch, model.device, hooks, cache, columns)
        except _Enough:
            logits = torch.empty(*batch.token_ids.shape, 0, device=model.device)
    if waiting:
        missing = ", ".join(sorted(map(str, waiting)))
        raise ModelError(f"{model.name} never computes {missing}")
    return logits


class _Enough(Exception):
    """Raised in a pass that need not go on. TransformerLens takes its hooks off in any case."""


def _end(value: Tensor, hook: object) -> None:
    raise _Enough


def _require_on(model: LensModel, hooks: Sequence[tuple[str, Callable[..., None]]]) -> None:
    """TransformerLens computes some places only when it is told to, and says how."""
    there = model.bridge.hook_dict
    for name, hook in hooks:
        if name not in there:
            raise ModelError(f"{model.name} has no {name}: TransformerLens does not show it")
        try:
            model.bridge.check_hooks_to_add(there[name], name, hook)
        except (ValueError, AssertionError) as error:  # of version 4, and of 3
            raise ModelError(
                f"{model.name} is not told to compute {name}: {error} Do so on `model.bridge`."
            ) from error


@contextmanager
def _head_outputs(model: LensModel) -> Iterator[None]:
    """TransformerLens computes what each head adds only when it is told to.

    It multiplies with the projection's weight itself then, which leaves out an adapter, and is
    wrong about packed numbers.
    """
    from transformers.pytorch_utils import Conv1D

    for number, block in enumerate(model.bridge.blocks):
        output = getattr(getattr(block, "attn", None), "o", None)
        projection = getattr(output, "original_component", None)
        if type(projection) not in (NoneType, torch.nn.Linear, Conv1D):
            kind = f"{type(projection).__module__}.{type(projection).__name__}"
            raise ModelError(
                f"{model.name} has no separate outputs of heads: block {number} puts them out "
                f"through a {kind}. Read it unquantised, with its adapter merged."
            )
    before = bool(model.bridge.cfg.use_attn_result)
    try:
        model.bridge.set_use_attn_result(True)
    except NotImplementedError as error:
        what = first_line(error).rstrip(".")
        raise ModelError(f"{model.name} has no separate outputs of heads: {what}") from error
    try:
        with attention_in_memory(model.bridge):
            yield
    finally:
        model.bridge.set_use_attn_result(before)


def _require_vectors(sites: Sequence[Site]) -> None:
    strange = [site for site in sites if not site.is_vector]
    if strange:
        what = f"{', '.join(map(str, strange))} gives no vector of the residual stream's width"
        raise InputProblems([Problem("sites", what, f"Choose from {', '.join(VECTORS)}.")])


@overload
def residual_stream(  # type: ignore[overload-overlap]
    model: LensModel, prompts: One, sites: Wanted = ..., *, batch_tokens: int = ...
) -> Residuals: ...
@overload
def residual_stream(
    model: LensModel, prompts: Prompts, sites: Wanted = ..., *, batch_tokens: int = ...
) -> list[Residuals]: ...
def residual_stream(
    model: LensModel,
    prompts: Prompts,
    sites: Wanted = ("embed", "resid_post"),
    *,
    batch_tokens: int = 512,
) -> Residuals | list[Residuals]:
    """The residual stream at every position of a prompt, for looking around; of many, one each.

    `stream` is [site, pos, d_model], float32; `logits` is [1, pos, d_vocab].

    Args:
        prompts: a text, token ids or a Prompt; or a list of these, or a PromptSet.
        sites: kinds ("resid_mid", "attn_out", ...), names ("blocks.5.head_out.3") or Sites.
        batch_tokens: tokens per forward pass, padding included.

    Raises InputProblems with all that is wrong with the prompts or the sites.
    """
    ids = encode_ids(require_loaded(model).encoder(), prompts)
    places = model.sites(sites)
    found: dict[int, Residuals] = {}
    for items in plan_batches([len(one) for one in ids], batch_tokens, model.rope_switch):
        lengths = [len(ids[item]) for item in items]
        both = capture_positions(model, [ids[i] for i in items], list(map(range, lengths)), places)
        streams = both.stream.split(lengths, dim=1)
        for row, (item, length) in enumerate(zip(items, lengths, strict=True)):
            own = [(0, p) for p in range(length)]
            found[item] = Residuals(places, own, streams[row], both.logits[row : row + 1, :length])
    return found[0] if is_one(prompts) else [found[item] for item in sorted(found)]
