"""The logit lens over many prompts, streamed: no [layer, position, vocabulary] tensor ever exists.

The work is cut into groups of cells (a cell is one prompt at one position). A group is read at all
its layers by one matrix product, then one cell at a time is turned into statistics, so that the
vocabulary-sized tensors of the statistics stay small enough for the processor's cache. Peak memory
beyond the forward pass is the residual stream of the cells, plus one group of logits, plus a few
[layer, vocabulary] tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import InputProblems, Problem
from lensbench.lens import metrics
from lensbench.lens.metrics import Distribution
from lensbench.models.model import LensModel
from lensbench.models.readout import Lens, Point, Site
from lensbench.prompts.batch import PaddingSide, make_batch, plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.residuals.capture import Residuals, capture
from lensbench.residuals.store import CachedResiduals, ResidualCache

# One group of logits. The head's product wants at least about 64 rows to run at full speed; more
# than 24 MB of them would break the promise of 64 MB beyond the forward pass.
_GROUP_BYTES = 24 << 20
_GROUP_ROWS = 64

Positions = str | Sequence[int]
MISSING = -1  # in integer tensors: this cell has no such token


@dataclass(frozen=True)
class LensSettings:
    """What is read where. The same settings and prompts give the same numbers.

    `layers` counts from 0 (embedding) to n_layers (after the last block); None is all of them.
    `positions` is "last", "all", "earlier" (all but the last), or indices into the prompt (negative
    ones from its end).
    """

    lenses: tuple[Lens, ...] = ("final",)
    points: tuple[Point, ...] = ("embed", "resid_post")
    layers: tuple[int, ...] | None = None
    positions: Positions = "last"
    top_k: int = 5
    batch_tokens: int = 512
    padding_side: PaddingSide = "right"
    keep_stream: bool = False  # hand the residual vectors out with what was read from them

    def __post_init__(self) -> None:
        """Raises InputProblems with every setting that no model could be read with."""
        found = [
            *_strange("lens", self.lenses, get_args(Lens)),
            *_strange("points", self.points, get_args(Point)),
            *_strange("padding_side", [self.padding_side], get_args(PaddingSide)),
        ]
        if isinstance(self.positions, str):
            found += _strange("positions", [self.positions], ["all", "last", "earlier"])
        if self.top_k < 1:
            found.append(Problem("top_k", f"is {self.top_k}", "Give 1 or more."))
        if found:
            raise InputProblems(found)

    def sites(self, model: LensModel) -> list[Site]:
        """The residual sites to read. Raises InputProblems when the model cannot give them."""
        wanted = range(model.n_layers + 1) if self.layers is None else self.layers
        strange = [layer for layer in wanted if not 0 <= layer <= model.n_layers]
        if strange:
            what = f"{model.name} has no layer {', '.join(map(str, strange))}"
            remedy = f"Choose from 0 (embedding) to {model.n_layers} (after the last block)."
            raise InputProblems([Problem("layers", what, remedy)])
        if self.top_k > model.d_vocab:
            what = f"is {self.top_k}, {model.name} has {model.d_vocab} tokens"
            raise InputProblems([Problem("top_k", what, "Give fewer.")])
        sites = [site for site in model.sites(self.points) if site.layer in set(wanted)]
        if not sites:
            what = f"{model.name} has none of the points {', '.join(self.points)} there"
            raise InputProblems([Problem("layers", what, "Choose other layers or points.")])
        return sites


def _strange(name: str, given: Sequence[str], known: Sequence[str]) -> list[Problem]:
    remedy = f"Choose from {', '.join(known)}."
    if not given:
        return [Problem(name, "is empty", remedy)]
    return [Problem(name, f"there is no {x!r}", remedy) for x in given if x not in known]


@dataclass(frozen=True)
class BatchReadings:
    """Everything measured on one batch: each statistic is a [site, cell] tensor per lens.

    `gate_kl_bits` is the largest KL(model || lens) at the last layer over the batch's cells: the
    lens identity on the very prompts that are reported. `problems` are the prompts left out.
    """

    prompts: list[EncodedPrompt]
    positions: list[list[int]]  # per prompt
    sites: list[Site]
    lenses: dict[Lens, dict[str, Tensor]]
    gate_kl_bits: float | None
    problems: list[Problem] = field(default_factory=list)
    stream: Float[Tensor, "site cell d_model"] | None = None  # only if it was to be kept


def read_batches(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    cache: ResidualCache | None = None,
) -> Iterator[BatchReadings]:
    """Read all prompts, batch by batch, prompts of similar length together."""
    lengths = [len(prompt.token_ids) for prompt in prompts]
    for items in plan_batches(lengths, settings.batch_tokens):
        yield read_batch(model, [prompts[item] for item in items], settings, cache)


def read_batch(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    cache: ResidualCache | None = None,
) -> BatchReadings:
    """Measure every requested cell of one batch at every requested site and lens.

    The residuals come from one forward pass, or from `cache`: then the model's own logits are made
    from its last layer, and the gate is the one that was measured when the cache was made.
    """
    sites = settings.sites(model)
    wanted = [_positions(prompt, settings.positions) for prompt in prompts]
    if not any(wanted):  # such as the earlier positions of one-token prompts
        return BatchReadings([], [], [], {}, None)
    captured = [*sites, model.final_site] if model.final_site not in sites else sites
    residuals = (
        _live(model, prompts, wanted, captured, settings.padding_side)
        if cache is None
        else cache.residuals(model, [prompt.prompt.id for prompt in prompts], wanted, captured)
    )
    broken = residuals.broken_rows()
    if broken:
        return _without(model, prompts, settings, broken, cache)
    targets = _targets(prompts, wanted, model.device)
    lenses: dict[Lens, dict[str, Tensor]] = {
        lens: _read(model, residuals, sites, lens, targets, settings.top_k)
        for lens in settings.lenses
    }
    broken = _not_readable(residuals, lenses)
    if broken:
        return _without(model, prompts, settings, broken, cache)
    gate_kl = cache.gate_kl_bits if cache else _gate_kl_bits(model, residuals, sites, lenses)
    kept = residuals.stream[: len(sites)].cpu() if settings.keep_stream else None
    return BatchReadings(list(prompts), wanted, sites, lenses, gate_kl, stream=kept)


def _live(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    wanted: Sequence[Sequence[int]],
    sites: Sequence[Site],
    padding_side: PaddingSide,
) -> Residuals:
    """One forward pass over the prompts; the residuals at the wanted positions."""
    token_ids = [prompt.token_ids for prompt in prompts]
    batch = make_batch(range(len(prompts)), token_ids, padding_side)
    cells = [
        (row, batch.column(row, position))
        for row, positions in enumerate(wanted)
        for position in positions
    ]
    return capture(model, batch, sites, cells)


def _positions(prompt: EncodedPrompt, positions: Positions) -> list[int]:
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


@dataclass(frozen=True)
class Targets:
    """Token ids that are looked up in each cell; MISSING where there is none."""

    answer: Int[Tensor, " cell"]
    category: Int[Tensor, " cell"]
    null_category: Int[Tensor, " cell"]
    following: Int[Tensor, " cell"]  # the token that really comes next in the prompt


def _targets(
    prompts: Sequence[EncodedPrompt], wanted: Sequence[Sequence[int]], device: torch.device
) -> Targets:
    def per_cell(ids: Sequence[int]) -> Int[Tensor, " cell"]:
        flat = [token for token, where in zip(ids, wanted, strict=True) for _ in where]
        return torch.tensor(flat, device=device)

    following = [
        prompt.token_ids[position + 1] if position + 1 < len(prompt.token_ids) else MISSING
        for prompt, positions in zip(prompts, wanted, strict=True)
        for position in positions
    ]
    return Targets(
        per_cell([p.answer.id if p.answer else MISSING for p in prompts]),
        per_cell([p.category.id if p.category else MISSING for p in prompts]),
        per_cell([p.null_category.id if p.null_category else MISSING for p in prompts]),
        torch.tensor(following, device=device),
    )


def _read(
    model: LensModel,
    residuals: Residuals | CachedResiduals,
    sites: Sequence[Site],
    lens: Lens,
    targets: Targets,
    k: int,
) -> dict[str, Tensor]:
    """All statistics of one lens, each [site, cell] (top-k: [site, cell, k])."""
    n_cells = len(residuals.cells)
    rows = max(_GROUP_BYTES // (4 * model.d_vocab), _GROUP_ROWS)
    group = max(rows // len(sites), 1)
    parts = []
    with torch.inference_mode():
        for start in range(0, n_cells, group):
            cells = slice(start, min(start + group, n_cells))
            parts += _read_group(model, residuals, sites, lens, targets, k, cells)
    return {name: torch.stack([part[name] for part in parts], dim=1).cpu() for name in parts[0]}


def _read_group(
    model: LensModel,
    residuals: Residuals | CachedResiduals,
    sites: Sequence[Site],
    lens: Lens,
    targets: Targets,
    k: int,
    cells: slice,
) -> list[dict[str, Tensor]]:
    """One matrix product for a group of cells at all sites, then the statistics cell by cell."""
    readout = model.readout
    stream = [residuals.at(site)[cells] for site in sites]  # each [cell, d_model]
    normed = torch.stack(
        [readout.normed(resid, lens, site) for resid, site in zip(stream, sites, strict=True)],
        dim=1,
    )
    final = residuals.at(model.final_site)[cells].unsqueeze(1)
    final_normed = readout.normed(final, "final", model.final_site)
    logits = readout.logits(normed)  # [cell, site, d_vocab]: each cell's slice is contiguous
    model_logits = residuals.model_logits(cells)  # [cell, d_vocab]
    geometry = {
        "resid_norm": torch.stack(stream, dim=1).norm(dim=-1),
        "cos_final": metrics.cosine(normed, final_normed),
    }
    readings = []
    for i, cell in enumerate(range(cells.start, cells.stop)):
        p = Distribution.from_logits(model_logits[i : i + 1])  # broadcasts over sites
        q = Distribution.from_logits(logits[i])
        statistics = cell_statistics(p, q, targets, cell, k)
        readings.append(statistics | {name: value[i] for name, value in geometry.items()})
    return readings


def cell_statistics(
    p: Distribution, q: Distribution, targets: Targets, cell: int, k: int
) -> dict[str, Tensor]:
    """Every vocabulary statistic of one cell, over sites.

    Args:
        p: the model's own distribution, [1, d_vocab].
        q: the lens' distributions, [site, d_vocab].
        k: how many top tokens to keep.
    """
    top_log_probs, top_ids = metrics.top_k(q, k)
    statistics = {
        "entropy_bits": metrics.entropy_bits(q),
        "kl_bits": metrics.kl_bits(p, q),
        "js_bits": metrics.js_bits(p, q),
        "top_probs": top_log_probs.exp(),
        "top_ids": top_ids,
    }
    for name, (target, compute) in _TOKEN_STATISTICS.items():
        token = getattr(targets, target)[cell]
        statistics[name] = (
            torch.full_like(statistics["kl_bits"], torch.nan)
            if bool(token == MISSING)
            else compute(q, token.expand(len(top_ids))).float()
        )
    return statistics


def _prob(q: Distribution, token: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    return metrics.log_prob(q, token).exp()


# Statistics of a token: which token, and the metric. Missing tokens give NaN, in records null.
# To add one: one line here and one column in records/schema.py.
_TOKEN_STATISTICS = {
    "answer_prob": ("answer", _prob),
    "answer_rank": ("answer", metrics.rank),
    "answer_margin_bits": ("answer", metrics.margin_bits),
    "category_rank": ("category", metrics.rank),
    "null_category_rank": ("null_category", metrics.rank),
    "next_surprisal_bits": ("following", metrics.surprisal_bits),
}


def _gate_kl_bits(
    model: LensModel,
    residuals: Residuals | CachedResiduals,
    sites: Sequence[Site],
    lenses: dict[Lens, dict[str, Tensor]],
) -> float:
    """The largest KL(model || final lens at the last layer) over the batch's cells."""
    if "final" in lenses and model.final_site in sites:
        return float(lenses["final"]["kl_bits"][list(sites).index(model.final_site)].max())
    return float(last_layer_kl_bits(model, residuals).max())


def last_layer_kl_bits(
    model: LensModel, residuals: Residuals | CachedResiduals, lens: Lens = "final"
) -> Float[Tensor, " cell"]:
    """KL(model || lens at the last layer) per cell: 0 for a lens that reproduces the model."""
    final = residuals.at(model.final_site)
    rows = max(_GROUP_BYTES // (4 * model.d_vocab), 1)
    values = []
    with torch.inference_mode():
        for start in range(0, len(residuals.cells), rows):
            cells = slice(start, min(start + rows, len(residuals.cells)))
            logits = model.readout(final[cells], lens, model.final_site)
            for own, read in zip(residuals.model_logits(cells), logits, strict=True):
                p, q = Distribution.from_logits(own), Distribution.from_logits(read)
                values.append(metrics.kl_bits(p, q))
    return torch.stack(values)


def _not_readable(
    residuals: Residuals | CachedResiduals, lenses: dict[Lens, dict[str, Tensor]]
) -> set[int]:
    """Rows for which a lens gave NaN: the head's float16 product overflows on a large residual."""
    bad = [~statistics["entropy_bits"].isfinite().all(0) for statistics in lenses.values()]
    cells = torch.stack(bad).any(0).tolist()
    return {row for (row, _), is_bad in zip(residuals.cells, cells, strict=True) if is_bad}


def _without(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    broken: set[int],
    cache: ResidualCache | None,
) -> BatchReadings:
    """The batch again without the prompts that gave NaN or Inf, which become problems."""
    problems = [not_finite_problem(model, prompts[row]) for row in sorted(broken)]
    rest = [prompt for row, prompt in enumerate(prompts) if row not in broken]
    if not rest:
        return BatchReadings([], [], [], {}, None, problems)
    readings = read_batch(model, rest, settings, cache)
    return replace(readings, problems=problems + readings.problems)


def not_finite_problem(model: LensModel, prompt: EncodedPrompt) -> Problem:
    """A prompt for which the model gives NaN or Inf, and what may help."""
    dtype = str(model.dtype).removeprefix("torch.")
    remedy = (
        "float16 overflows above 65,504: use --dtype bfloat16 or float32."
        if model.dtype == torch.float16
        else "The weights may be damaged: run `lensbench check` on the model."
    )
    item = prompt.prompt.id
    what = f"{model.name} in {dtype} gives NaN or Inf for it"
    return Problem(f"prompt {item}", what, remedy, prompt_id=item)
