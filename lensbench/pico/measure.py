"""What is measured of one model of a lineage: heads on repeated tokens, and two lenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lensbench.corpora.corpus import Corpus
from lensbench.fitting.linear_lens import require_determined, solve
from lensbench.fitting.method import Fitter
from lensbench.fitting.moments import Moments
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tables import quality_table
from lensbench.fitting.windows import parts_of
from lensbench.lens.base import Final
from lensbench.lens.gate import check_identities, require
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.untrained import untrained
from lensbench.pico.repeats import Repeats, measure_repeats, sequences_of
from lensbench.pico.runs import Run
from lensbench.pico.spec import AnalyseSpec
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.pico import HEAD_SCORES, LINEAGE, LINEAGE_HEADS, LINEAGE_LENSES

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Kept:
    """A model: of a run (its number) and a step, or without one drawn anew by a seed."""

    run: int | None
    step: int
    seed: int


@dataclass(frozen=True)
class Measuring:
    """What the jobs of an analysis are done with."""

    runs: Sequence[Run]
    text: Corpus
    spec: AnalyseSpec


def measured(context: Measuring, job: Job[Kept]) -> Part:
    """One model's rows. The same job yields the same part."""
    item = job.item
    run = context.runs[item.run or 0]
    model = load_model(run.folder(item.step if item.run is not None else run.steps[0]))
    if item.run is None:
        model = untrained(model, item.seed)
    context_tokens = int(run.record.settings["context"])
    found = measure_repeats(model, context.spec.repeats, context_tokens)
    about = {"run": UNTRAINED if item.run is None else run.name, "seed": item.seed}
    about |= {"step": item.step}
    tables = {
        "lineage": pa.Table.from_pylist([about | _row(run, item, found)], LINEAGE.schema),
        "lineage_heads": pa.Table.from_pylist(_heads(about, found), LINEAGE_HEADS.schema),
    }
    if item.run is None:
        return Part(tables)
    shown = sequences_of(model, 2, context_tokens)
    identities = check_identities(model, [shown[0][: context_tokens // 2], shown[1]])
    require(identities)
    tables["lineage_lenses"] = _lenses(context, model, about)
    return Part(tables, notes={"gate": [identity.as_dict() for identity in identities]})


def _row(run: Run, item: Kept, found: Repeats) -> dict[str, Any]:
    block, head = found.best
    return {
        "n_tokens": item.step * run.step_tokens,
        "eval_loss_nats": None if item.run is None else _logged(run, item.step),
        "first_loss_nats": found.first_loss_nats,
        "repeat_loss_nats": found.repeat_loss_nats,
        "induction": float(found.scores["induction"][block, head]),
        "induction_block": block,
        "induction_head": head,
    }


def _logged(run: Run, step: int) -> float:
    log = run.record.table("training").dropna(subset=["eval_loss_nats"])
    return float(log.set_index("step")["eval_loss_nats"][step])


def _heads(about: dict[str, Any], found: Repeats) -> list[dict[str, Any]]:
    n_blocks, n_heads = found.scores["induction"].shape
    return [
        about
        | {"block": block, "head": head}
        | {name: float(found.scores[name][block, head]) for name in HEAD_SCORES}
        for block in range(n_blocks)
        for head in range(n_heads)
    ]


def _lenses(context: Measuring, model: LensModel, about: dict[str, Any]) -> pa.Table:
    """The logit lens and a linear lens of this very step, on held-out text."""
    spec = context.spec
    wanted = FitSpec(
        model=str(model.ref),
        tokens=spec.tokens,
        choose_tokens=spec.choose_tokens,
        test_tokens=spec.test_tokens,
        window=spec.window,
    )
    windows, _ = parts_of(context.text, wanted, model)
    fitter = Fitter(model, wanted, windows)
    require_determined(fitter)
    states = fitter.states(windows["fit"], fitter.sites)
    moments = Moments.of(states, model.n_layers, model.d_model, seed=0)
    solved = solve(fitter, range(model.n_layers), moments)
    figures = fitter.measured({"fitted": solved.lens}, fitter.sites, "test", Final(model))
    quality = quality_table(model, ["fitted", "final"], fitter.sites, figures, solved.strengths)
    return pa.Table.from_pylist([row | about for row in quality.to_pylist()], LINEAGE_LENSES.schema)
