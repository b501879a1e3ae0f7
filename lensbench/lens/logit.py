"""The logit lens over many prompts, streamed: no [layer, position, vocabulary] tensor ever exists.

The work is cut into groups of cells (a cell is one prompt at one position). The vectors of a group
at all its layers go through the head together, the vocabulary in tiles (vocabulary/stream.py); the
last layer by itself, where the lens is held to the model. Peak memory beyond the forward pass is
the residual stream of the cells, and room for two tiles or a few rows of logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.devices import has_float64
from lensbench.errors import InputProblems, Problem
from lensbench.lens import metrics
from lensbench.lens.base import Final, Lens
from lensbench.lens.fitted.guess import guess_ranks
from lensbench.lens.gate import (
    last_layer_kl_bits,
    lens_identity,
    require,
    stored_identity,
    worst,
)
from lensbench.lens.registry import Lenses, lens_name
from lensbench.lens.settings import LensSettings, Positions
from lensbench.lens.vocabulary import statistics
from lensbench.lens.vocabulary.exact import Recomputed
from lensbench.lens.vocabulary.fetch import by_one_copy, fetched
from lensbench.lens.vocabulary.output import Logits, Output
from lensbench.lens.vocabulary.reading import MISSING
from lensbench.lens.vocabulary.stream import Sought, Stream, Vectors
from lensbench.models.model import LensModel
from lensbench.models.readout import EVERY
from lensbench.models.sites import Site
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt, Word
from lensbench.residuals.capture import Residuals, capture_positions
from lensbench.residuals.store import CachedResiduals, ResidualCache

# The logits that stand for the model's, and what the head makes them of where they are at hand.
OwnOutput = tuple[Logits, Float[Tensor, "cell d_model"] | None]


@dataclass(frozen=True)
class BatchReadings:
    """Everything measured on one batch: each statistic is a [site, cell] tensor per lens.

    `gate_kl_bits` is the largest KL(model || lens) at the last layer over the batch's cells: the
    lens identity on the very prompts that are reported. `problems` are the prompts skipped.
    """

    prompts: list[EncodedPrompt]
    positions: list[list[int]]  # per prompt
    sites: list[Site]
    lenses: dict[str, dict[str, Tensor]]
    sites_of: dict[str, list[Site]]  # those of `sites` where a lens is read
    gate_kl_bits: float | None
    problems: list[Problem] = field(default_factory=list)
    stream: Float[Tensor, "site cell d_model"] | None = None  # only if it was to be kept
    recomputed: Recomputed | None = None  # only of products of bfloat16 parts
    n_read_again: int = 0  # rows, in float64: see vocabulary/bound.py


def read_batches(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    cache: ResidualCache | None = None,
) -> Iterator[BatchReadings]:
    """Read all prompts, batch by batch, prompts of similar length together."""
    lengths, lenses = [len(prompt.token_ids) for prompt in prompts], Lenses(model)
    for items in plan_batches(lengths, settings.batch_tokens, model.rope_switch):
        yield read_batch(model, [prompts[item] for item in items], settings, cache, lenses)


def read_batch(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    cache: ResidualCache | None = None,
    lenses: Lenses | None = None,
    captured: Residuals | None = None,
    own_output: OwnOutput | None = None,
) -> BatchReadings:
    """Measure every requested cell of one batch at every requested site and lens.

    The residuals come from one forward pass, which may have been made already (`capture_batch`, and
    of it `output_of`), or from `cache`: then the model's own logits are made from its last layer,
    and the gate is the one that was measured when the cache was made. Who reads several batches
    gives the `lenses`, which are made once then.

    Raises GateError when a lens that may carry a headline does not reproduce the model.
    """
    sites = settings.sites_in(model)
    wanted = [read_positions(prompt, settings.positions) for prompt in prompts]
    if not any(wanted):  # such as the earlier positions of one-token prompts
        return BatchReadings([], [], [], {}, {}, None)
    residuals: Residuals | CachedResiduals
    if cache is None:
        residuals = captured or capture_batch(model, prompts, settings)
    else:
        names = [prompt.prompt.id for prompt in prompts]
        residuals = cache.residuals(model, names, wanted, with_last(model, sites))
    if broken := residuals.broken_rows():
        return _without(model, prompts, settings, broken, cache, lenses)
    lenses = lenses or Lenses(model)
    given = {lens_name(one): lenses[one] for one in settings.lenses}
    own = {name: [at for at in sites if lens.reads(at)] for name, lens in given.items()}
    sought = _sought(prompts, wanted, model.device)
    with torch.inference_mode():
        parts = settings.products == "bfloat16"
        readout = model.split_readout if parts else model.readout
        own_output = own_output or output_of(model, residuals)
        output = Output.of(readout, len(residuals.cells), *own_output)
        stream = Stream(output, sought, settings.top_k, statistics.UNCOUNTED)
        batch = _Batch(model, residuals, stream, settings.metrics)
        read = {name: _read(batch, lens, own[name]) for name, lens in given.items()}
    for name, lens in given.items():
        read[name]["answer_guess_rank"] = guess_ranks(lens, residuals, own[name], sought["answer"])
    read = fetched(read)
    if broken := _not_readable(residuals, read):
        return _without(model, prompts, settings, broken, cache, lenses)
    gate_kl = _gate_kl_bits(model, residuals, own, given, read, cache)
    again = [_read_again(batch, lens, own[name], read[name]) for name, lens in given.items()]
    kept = residuals.stream[: len(sites)].cpu() if settings.keep_stream else None
    recomputed = stream.recomputed if parts else None
    return BatchReadings(
        list(prompts),
        wanted,
        sites,
        read,
        own,
        gate_kl,
        stream=kept,
        recomputed=recomputed,
        n_read_again=sum(again),
    )


def capture_batch(
    model: LensModel, prompts: Sequence[EncodedPrompt], settings: LensSettings
) -> Residuals:
    """The one forward pass that `read_batch` reads."""
    ids = [prompt.token_ids for prompt in prompts]
    wanted = [read_positions(prompt, settings.positions) for prompt in prompts]
    sites = with_last(model, settings.sites_in(model))
    return capture_positions(model, ids, wanted, sites, settings.padding_side)


def with_last(model: LensModel, sites: Sequence[Site]) -> list[Site]:
    """The last layer is compared with the model, whether it is read or not."""
    return [*sites] if model.final_site in sites else [*sites, model.final_site]


def read_positions(prompt: EncodedPrompt, positions: Positions) -> list[int]:
    """Which positions of a prompt are read. Raises InputProblems for one that it has not."""
    length = len(prompt.token_ids)
    if positions == "all":
        return list(range(length))
    if positions == "last":
        return [length - 1]
    if positions == "earlier":
        return list(range(length - 1))
    chosen = [int(p) + length if int(p) < 0 else int(p) for p in positions]
    strange = [p for p in chosen if not 0 <= p < length]
    if strange:
        what = f"prompt '{prompt.prompt.id}' has {length} positions, no {strange[0]}"
        remedy = "Choose positions that exist in every prompt; negative ones count from the end."
        raise InputProblems([Problem("positions", what, remedy)])
    return chosen


def _sought(
    prompts: Sequence[EncodedPrompt], wanted: Sequence[Sequence[int]], device: torch.device
) -> Sought:
    """Token ids that are looked up in each cell, by what TOKEN_STATISTICS calls them.

    `following` is the token that really comes next in the prompt.
    """

    def per_cell(words: Sequence[Word | None]) -> list[int]:
        ids = [word.id if word else MISSING for word in words]
        return [token for token, where in zip(ids, wanted, strict=True) for _ in where]

    following = [
        prompt.token_ids[position + 1] if position + 1 < len(prompt.token_ids) else MISSING
        for prompt, positions in zip(prompts, wanted, strict=True)
        for position in positions
    ]
    ids = {
        "answer": per_cell([p.answer for p in prompts]),
        "answer_other": per_cell([p.answer_other for p in prompts]),
        "category": per_cell([p.category for p in prompts]),
        "null_category": per_cell([p.null_category for p in prompts]),
        "following": following,
    }
    rows = torch.tensor(list(ids.values()), dtype=torch.long, device=device)
    return dict(zip(ids, rows, strict=True))


def model_output(
    model: LensModel, residuals: Residuals | CachedResiduals, cells: slice, tokens: slice = EVERY
) -> Float[Tensor, "cell token"]:
    """The logits that stand for the model's output, float32.

    Its own; in half precision those are rounded, which would be most of the divergence near the
    last layer, so that they are made anew from its last state.
    """
    if model.readout.rounds:
        normed = model.readout.norm(residuals.at(model.final_site)[cells])
        return model.readout.logits(normed, tokens)
    return residuals.model_logits(cells, tokens)


@torch.inference_mode()
def output_of(model: LensModel, residuals: Residuals | CachedResiduals) -> OwnOutput:
    """The same for a batch. What would be made anew for each use is held where it fits.

    Then with what the head made it of, but on an accelerator, which would have to be waited for.
    """
    made, n_cells = partial(model_output, model, residuals), len(residuals.cells)
    head = model.readout
    if not (head.rounds and n_cells <= head.rows_at_once):
        return made, None
    whole = made(slice(0, n_cells))
    normed = None if head.holds else head.norm(residuals.at(model.final_site))
    return (lambda cells, tokens: whole[cells, tokens].clone()), normed


@dataclass(frozen=True)
class _Batch:
    """What every lens reads of a batch, and by what."""

    model: LensModel
    residuals: Residuals | CachedResiduals
    stream: Stream
    metrics: Sequence[str]


def _read(batch: _Batch, lens: Lens, sites: Sequence[Site]) -> dict[str, Tensor]:
    """All statistics of one lens, each [site, cell] (top-k: [site, cell, k])."""
    last = batch.model.final_site
    # A mean logit in float32 would be off by more than the gate's bound.
    every = batch.metrics or not has_float64(batch.model.device)
    whole = list(sites) if every else [site for site in sites if site == last]
    tiled = [site for site in sites if site not in whole]
    found = [_read_sites(batch, lens, own, own is whole) for own in (tiled, whole) if own]
    order = torch.tensor([(tiled + whole).index(site) for site in sites], device=batch.model.device)
    return {
        name: torch.cat([part[name] for part in found], dim=1)[:, order].transpose(0, 1)
        for name in found[0]
    }


def _read_sites(batch: _Batch, lens: Lens, sites: Sequence[Site], whole: bool) -> dict[str, Tensor]:
    """Statistics [cell, site], a group of cells at a time."""
    model, residuals, stream = batch.model, batch.residuals, batch.stream
    divergences = {name: statistics.DIVERGENCES[name] for name in batch.metrics}
    n_rows = model.readout.rows_at_once if whole else stream.rows_at_once
    size, n_cells = max(n_rows // len(sites), 1), len(residuals.cells)
    parts = []
    for start in range(0, n_cells, size):
        cells = slice(start, min(start + size, n_cells))
        resid = [residuals.at(site)[cells] for site in sites]  # each [cell, d_model]
        normed = [lens.normed(own, site) for own, site in zip(resid, sites, strict=True)]
        vectors = Vectors(torch.stack(normed, dim=1), cells)
        if whole:
            reading, more = stream.read_whole(vectors, divergences)
        else:
            reading, more = stream.read(vectors), {}
        rows = statistics.of(reading, stream.top_k) | more
        shape = vectors.normed.shape[:2]
        part = {name: value.unflatten(0, shape) for name, value in rows.items()}
        final = model.readout.norm(residuals.at(model.final_site)[cells].unsqueeze(1))
        part["resid_norm"] = torch.stack(resid, dim=1).norm(dim=-1)
        part["cos_final"] = metrics.cosine(vectors.normed, final)
        parts.append(part)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.inference_mode()
def _read_again(batch: _Batch, lens: Lens, sites: Sequence[Site], read: dict[str, Tensor]) -> int:
    """Rows that float32 products may leave outside the stated bound, in float64. How many.

    After the gate, which compares like with like: the model's own products are float32's.
    """
    residuals, stream, outside = batch.residuals, batch.stream, read.pop("outside").nonzero()
    divergences = {name: statistics.DIVERGENCES[name] for name in batch.metrics}
    n_rows = batch.model.readout.rows_at_once if divergences else stream.rows_at_once
    size = max(n_rows // 2, 1)  # float64 takes twice the room
    for some in (outside[start : start + size] for start in range(0, len(outside), size)):
        places, cells = some.T  # in the order of their sites
        there = cells.to(batch.model.device)
        of_site, counts = (
            found.tolist() for found in places.unique_consecutive(return_counts=True)
        )
        each = zip((sites[place] for place in of_site), there.split(counts), strict=True)
        normed = [lens.normed(residuals.at(site)[own], site) for site, own in each]
        vectors = Vectors(torch.cat(normed).double().unsqueeze(1), there)
        if divergences:
            reading, more = stream.read_whole(vectors, divergences)
        else:
            reading, more = stream.read(vectors), {}
        anew = by_one_copy(statistics.of(reading, stream.top_k) | more)
        beyond = anew.pop("outside")  # of logits of 1e9 and more: no number is better than one
        for name in ("entropy_bits", "kl_bits", *more):
            anew[name][beyond] = torch.nan
        for name in anew.keys() & read.keys():
            read[name][places, cells] = anew[name].to(read[name].dtype)
    return len(outside)


def _gate_kl_bits(
    model: LensModel,
    residuals: Residuals | CachedResiduals,
    sites: dict[str, list[Site]],
    lenses: Mapping[str, Lens],
    read: dict[str, dict[str, Tensor]],
    cache: ResidualCache | None,
) -> float:
    """The largest KL(model || lens) at the last layer over the batch's cells and its lenses.

    Of the final lens, whether it is read or not, and of each other that may carry a headline.
    Raises GateError where it is too large.
    """
    held = {name: lens for name, lens in lenses.items() if lens.headline}
    if cache is None:
        held["final"] = Final(model)
    errors = []
    for name, lens in held.items():
        # In half precision what is read is not compared with the model's own, rounded logits.
        if model.final_site in sites.get(name, ()) and not model.readout.rounds:
            kl_bits = read[name]["kl_bits"][sites[name].index(model.final_site)]
        else:
            kl_bits = last_layer_kl_bits(model, residuals, lens)
        errors.append(float(kl_bits.max()))
    identities = [lens_identity(model, *pair) for pair in zip(errors, held, strict=True)]
    if cache is not None:  # the model's logits are made from its last layer
        errors.append(cache.gate_kl_bits)
        identities.append(stored_identity(model, cache.gate_kl_bits, cache.dtype))
    require(identities)
    return worst(errors)


def _not_readable(
    residuals: Residuals | CachedResiduals, read: dict[str, dict[str, Tensor]]
) -> set[int]:
    """Rows for which a lens gave NaN: its norm or its head overflows on a large residual."""
    bad = [~statistics["entropy_bits"].isfinite().all(0) for statistics in read.values()]
    cells = torch.stack(bad).any(0).tolist()
    return {row for (row, _), is_bad in zip(residuals.cells, cells, strict=True) if is_bad}


def _without(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    broken: set[int],
    cache: ResidualCache | None,
    lenses: Lenses | None,
) -> BatchReadings:
    """The batch again without the prompts that gave NaN or Inf, which become problems."""
    problems = [not_finite_problem(model, prompts[row]) for row in sorted(broken)]
    rest = [prompt for row, prompt in enumerate(prompts) if row not in broken]
    if not rest:
        return BatchReadings([], [], [], {}, {}, None, problems)
    readings = read_batch(model, rest, settings, cache, lenses)
    return replace(readings, problems=problems + readings.problems)


def not_finite_problem(model: LensModel, prompt: EncodedPrompt) -> Problem:
    """A prompt for which the model gives NaN or Inf, and what may help."""
    item, dtype = prompt.prompt.id, str(model.dtype).removeprefix("torch.")
    what = f"{model.name} in {dtype} gives NaN or Inf for it"
    return Problem(f"prompt {item}", what, not_finite_remedy(model), prompt_id=item)


def not_finite_remedy(model: LensModel) -> str:
    """What may help where a model gives NaN or Inf."""
    if model.dtype == torch.float16:
        return "float16 overflows above 65,504: use --dtype bfloat16 or float32."
    return "The weights may be damaged: run `lensbench check` on the model."
