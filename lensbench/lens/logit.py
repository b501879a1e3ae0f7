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

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
from lensbench.lens.metrics import Distribution
from lensbench.lens.registry import lens_name, make_lens
from lensbench.lens.settings import LensSettings, Positions
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.residuals.capture import Residuals, capture_positions
from lensbench.residuals.store import CachedResiduals, ResidualCache

_GROUP_ROWS = 64  # the head's product wants about as many to run at full speed
MISSING = -1  # in integer tensors: this cell has no such token


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


def read_batches(
    model: LensModel,
    prompts: Sequence[EncodedPrompt],
    settings: LensSettings,
    cache: ResidualCache | None = None,
) -> Iterator[BatchReadings]:
    """Read all prompts, batch by batch, prompts of similar length together."""
    lengths = [len(prompt.token_ids) for prompt in prompts]
    for items in plan_batches(lengths, settings.batch_tokens, model.rope_switch):
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

    Raises GateError when a lens that may carry a headline does not reproduce the model.
    """
    sites = settings.sites_in(model)
    wanted = [_positions(prompt, settings.positions) for prompt in prompts]
    if not any(wanted):  # such as the earlier positions of one-token prompts
        return BatchReadings([], [], [], {}, {}, None)
    captured = [*sites, model.final_site] if model.final_site not in sites else sites
    residuals: Residuals | CachedResiduals
    if cache is None:
        ids = [prompt.token_ids for prompt in prompts]
        residuals = capture_positions(model, ids, wanted, captured, settings.padding_side)
    else:
        names = [prompt.prompt.id for prompt in prompts]
        residuals = cache.residuals(model, names, wanted, captured)
    if broken := residuals.broken_rows():
        return _without(model, prompts, settings, broken, cache)
    targets = _targets(prompts, wanted, model.device)
    lenses = {lens_name(given): make_lens(given, model) for given in settings.lenses}
    own = {name: [at for at in sites if lens.reads(at)] for name, lens in lenses.items()}
    read = {
        name: _read(model, residuals, own[name], lens, targets, settings.top_k)
        for name, lens in lenses.items()
    }
    for name, lens in lenses.items():
        read[name]["answer_guess_rank"] = guess_ranks(lens, residuals, own[name], targets.answer)
    if broken := _not_readable(residuals, read):
        return _without(model, prompts, settings, broken, cache)
    gate_kl = _gate_kl_bits(model, residuals, own, lenses, read, cache)
    kept = residuals.stream[: len(sites)].cpu() if settings.keep_stream else None
    return BatchReadings(list(prompts), wanted, sites, read, own, gate_kl, stream=kept)


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
    answer_other: Int[Tensor, " cell"]
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
        per_cell([p.answer_other.id if p.answer_other else MISSING for p in prompts]),
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
    readout, n_cells = model.readout, len(residuals.cells)

    def read_group(cells: slice) -> Iterator[dict[str, Tensor]]:
        """One matrix product for a group of cells at all sites, then statistics cell by cell."""
        stream = [residuals.at(site)[cells] for site in sites]  # each [cell, d_model]
        normed = torch.stack(
            [lens.normed(resid, site) for resid, site in zip(stream, sites, strict=True)], dim=1
        )
        final_normed = readout.norm(residuals.at(model.final_site)[cells].unsqueeze(1))
        logits = readout.logits(normed)  # [cell, site, d_vocab]: each cell's slice is contiguous
        model_logits = model_output(model, residuals, cells)
        geometry = {
            "resid_norm": torch.stack(stream, dim=1).norm(dim=-1),
            "cos_final": metrics.cosine(normed, final_normed),
        }
        for i, cell in enumerate(range(cells.start, cells.stop)):
            p = Distribution.from_logits(model_logits[i : i + 1])  # broadcasts over sites
            q = Distribution.from_logits(logits[i])
            statistics = cell_statistics(p, q, targets, cell, k)
            yield statistics | {name: value[i] for name, value in geometry.items()}

    group = max(max(readout.rows_at_once, _GROUP_ROWS) // len(sites), 1)
    parts: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        for start in range(0, n_cells, group):
            parts += read_group(slice(start, min(start + group, n_cells)))
    return {name: torch.stack([part[name] for part in parts], dim=1).cpu() for name in parts[0]}


def model_output(
    model: LensModel, residuals: Residuals | CachedResiduals, cells: slice
) -> Float[Tensor, "cell d_vocab"]:
    """The logits that stand for the model's output, float32.

    Its own; in half precision those are rounded, which would be most of the divergence near the
    last layer, so that they are made anew from its last state.
    """
    if model.readout.rounds:
        return model.readout(residuals.at(model.final_site)[cells])
    return residuals.model_logits(cells)


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
    statistics = {name: compute(p, q) for name, compute in metrics.STATISTICS.items()}
    statistics |= {"top_probs": top_log_probs.exp(), "top_ids": top_ids}
    for name, (target, compute_of) in metrics.TOKEN_STATISTICS.items():
        token = getattr(targets, target)[cell]
        statistics[name] = (
            torch.full_like(top_log_probs[:, 0], torch.nan)  # in records null
            if bool(token == MISSING)
            else compute_of(q, token.expand(len(top_ids))).float()
        )
    return statistics


def _gate_kl_bits(
    model: LensModel,
    residuals: Residuals | CachedResiduals,
    sites: dict[str, list[Site]],
    lenses: dict[str, Lens],
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
) -> BatchReadings:
    """The batch again without the prompts that gave NaN or Inf, which become problems."""
    problems = [not_finite_problem(model, prompts[row]) for row in sorted(broken)]
    rest = [prompt for row, prompt in enumerate(prompts) if row not in broken]
    if not rest:
        return BatchReadings([], [], [], {}, {}, None, problems)
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
