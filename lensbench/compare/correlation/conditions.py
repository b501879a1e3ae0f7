"""Conditions: runs whose activations are compared, read from their records and paired by prompt.

A condition is a traced run (`lensbench infer --trace`) or a residual cache (`lensbench cache`): the
residual stream of every prompt and layer, averaged over the tokens of a span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float, Int

from lensbench.compare.correlation.runs import Run, require_comparable
from lensbench.errors import InputProblems, Problem, RecordsError

_COLUMNS = ["prompt_id", "layer", "n_tokens", "mean"]


@dataclass(frozen=True, eq=False)
class Activations:
    """One condition's vectors in one span, each the mean over a prompt's tokens."""

    values: Float[np.ndarray, "layer prompt d"]  # layer 0 is the embedding
    prompt_ids: tuple[str, ...]
    n_tokens: Int[np.ndarray, " prompt"]

    def taken(self, rows: Sequence[int]) -> Activations:
        """Only these prompts, in this order."""
        ids = tuple(self.prompt_ids[row] for row in rows)
        return Activations(self.values[:, list(rows)], ids, self.n_tokens[list(rows)])

    def at_layers(self, layers: Sequence[int]) -> Activations:
        """Only these layers, in this order."""
        return Activations(self.values[list(layers)], self.prompt_ids, self.n_tokens)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Conditions at the reference's layers: with the same prompts in the same order, if paired."""

    span: str
    paired: bool
    names: tuple[str, ...]  # the reference first
    values: dict[str, Float[np.ndarray, "layer prompt d"]]
    prompt_ids: dict[str, tuple[str, ...]]
    n_tokens: dict[str, Int[np.ndarray, " prompt"]]
    layers: dict[str, tuple[int, ...]]  # each condition's own layer at each of the reference's
    problems: tuple[Problem, ...]  # prompts that were skipped

    @property
    def n_layers(self) -> int:
        """Blocks of the reference."""
        return len(self.values[self.names[0]]) - 1

    @property
    def depths(self) -> list[float]:
        """Relative depth of each layer."""
        return [layer / self.n_layers for layer in range(self.n_layers + 1)]


def read_activations(run: Run, span: str) -> tuple[Activations, list[Problem]]:
    """One run's vectors in its own span, or else this one, and the prompts that have none.

    A prompt without tokens in the span, or with NaN in any layer, is skipped as a problem.
    Raises InputProblems when nothing is left, RecordsError when the record is damaged.
    """
    span = run.span or span
    found = _from_cache(run, span) if run.record.kind == "cache" else _from_trace(run, span)
    where = run.where
    silent = found.n_tokens == 0
    finite = np.isfinite(found.values).all(axis=(0, 2))
    problems = []
    for row in np.flatnonzero(silent | ~finite).tolist():
        item = found.prompt_ids[row]
        if silent[row]:
            what, remedy = f"no {span} tokens in {item!r}", "It is skipped."
        else:
            bad = np.flatnonzero(~np.isfinite(found.values[:, row]).all(-1))
            what = f"NaN or infinite activations of {item!r} at layer {bad[0]}"
            remedy = "It is skipped: make its record again."
        problems.append(Problem(where, what, remedy, item))
    kept = np.flatnonzero(finite & ~silent).tolist()
    if not kept:
        what = f"no prompt with {span} activations"
        remedy = "Trace more prompts, or choose the other span with --span."
        raise InputProblems([Problem(where, what, remedy)])
    return found.taken(kept), problems


def _from_trace(run: Run, span: str) -> Activations:
    """The vectors of a traced run; NaN where a prompt has no token in the span."""
    table = run.record.arrow("activations", _COLUMNS, [("span", "=", span)])
    ids = tuple(dict.fromkeys(table["prompt_id"].to_pylist()))
    n_layers, n = run.record.n_layers, len(ids)
    if len(table) != (n_layers + 1) * n:
        raise RecordsError(
            f"{run.record.folder}: {len(table)} rows of activations where {n} prompts and "
            f"{n_layers + 1} layers need {(n_layers + 1) * n}. Make the record again."
        )
    numbers = {item: row for row, item in enumerate(ids)}
    rows = np.array([numbers[item] for item in table["prompt_id"].to_pylist()], dtype=np.int64)
    layers = table["layer"].to_numpy()
    known = np.asarray(pc.is_valid(table["mean"]))
    flat = pc.list_flatten(table["mean"]).to_numpy()  # nulls are passed over
    width = len(flat) // max(int(known.sum()), 1)
    values = np.full((n_layers + 1, n, width), np.nan)
    values[layers[known], rows[known]] = flat.reshape(int(known.sum()), width)
    n_tokens = np.zeros(n, dtype=np.int64)
    n_tokens[rows] = table["n_tokens"].to_numpy()
    return Activations(values, ids, n_tokens)


def _from_cache(run: Run, span: str) -> Activations:
    """The means over a residual cache's positions: the prompt's own, or the kept answer's.

    Raises InputProblems when the cache lacks layers, RecordsError naming a damaged shard.
    """
    files = run.record.residuals
    assert files is not None  # a cache
    sites = [("embed", 0)] + [("resid_post", i + 1) for i in range(run.record.n_layers)]
    missing = [str(layer) for site, layer in sites if (site, layer) not in files.sites]
    if missing:
        what = f"the cache holds no layer {', '.join(missing)}"
        raise InputProblems([Problem(run.where, what, "Cache every layer: leave --layers out.")])
    values = np.stack([files.means(site, layer, span) for site, layer in sites])
    ids = tuple(dict.fromkeys(files.cells["prompt_id"]))
    return Activations(values.astype(np.float64), ids, files.n_tokens(span))


def align(
    runs: Sequence[Run], span: str, relative_depth: bool = False, paired: bool = True
) -> Aligned:
    """Every run's vectors, over the prompts that all have, at the first run's layers.

    With `relative_depth`, a run of another depth is read at its layer nearest to the same share of
    the depth. Without `paired`, every run keeps all its prompts. Raises InputProblems when the runs
    do not match, or share no prompt to be paired by.
    """
    require_comparable(runs, span, relative_depth)
    read = {run.name: read_activations(run, span) for run in runs}
    problems = [problem for _, found in read.values() for problem in found]
    every = {name: activations for name, (activations, _) in read.items()}
    if paired:
        shared = _shared(every, problems)
        if not shared:
            raise InputProblems([*problems, _nothing_shared(every, span)])
        every = {n: a.taken([a.prompt_ids.index(i) for i in shared]) for n, a in every.items()}
    n_layers = runs[0].record.n_layers
    layers = {run.name: _layers_at(n_layers, run.record.n_layers) for run in runs}
    taken = {name: a.at_layers(layers[name]) for name, a in every.items()}
    return Aligned(
        span=span,
        paired=paired,
        names=tuple(taken),
        values={name: a.values for name, a in taken.items()},
        prompt_ids={name: a.prompt_ids for name, a in taken.items()},
        n_tokens={name: a.n_tokens for name, a in taken.items()},
        layers=layers,
        problems=tuple(problems),
    )


def _shared(every: dict[str, Activations], problems: list[Problem]) -> list[str]:
    """Prompts that all conditions have; `problems` grows by those that some lack."""
    told = {problem.prompt_id for problem in problems}
    sets = {name: set(a.prompt_ids) for name, a in every.items()}
    order = list(dict.fromkeys(item for a in every.values() for item in a.prompt_ids))
    shared = [item for item in order if all(item in there for there in sets.values())]
    for item in order if shared else ():
        lacking = [name for name, there in sets.items() if item not in there]
        if lacking and item not in told:
            what = f"{', '.join(lacking)} has no {item!r}"
            problems.append(Problem("pairing", what, "It is skipped in all.", item))
    return shared


def _nothing_shared(every: dict[str, Activations], span: str) -> Problem:
    shown = "; ".join(
        f"{name}: {len(a.prompt_ids)} prompts, {a.prompt_ids[0]!r} first"
        for name, a in every.items()
    )
    what = f"the runs share no prompt id with {span} tokens ({shown})"
    remedy = "Give the prompts of every run the same ids, or compare their means with --unpaired."
    return Problem("pairing", what, remedy)


def _layers_at(reference: int, own: int) -> tuple[int, ...]:
    """A run's layer at each of the reference's, by relative depth; the same for equal depths."""
    return tuple(round(layer * own / reference) for layer in range(reference + 1))
