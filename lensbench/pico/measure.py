"""What is measured of one model: its heads, its loss on repeated tokens, and two lenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lensbench.corpora.corpus import Corpus
from lensbench.fitting.linear_lens import require_determined, solve
from lensbench.fitting.method import Fitter
from lensbench.fitting.moments import Moments
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tables import quality_table
from lensbench.fitting.windows import Part as CorpusPart
from lensbench.fitting.windows import Window, parts_of
from lensbench.lens.base import Final
from lensbench.lens.gate import check_identities, require
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.untrained import untrained
from lensbench.pico.heads import Heads, read_heads
from lensbench.pico.repeats import losses_of, sequences_of
from lensbench.pico.runs import Run
from lensbench.pico.spec import AnalyseSpec
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.declare import Table
from lensbench.records.schema.pico import LINEAGE, LINEAGE_HEADS, LINEAGE_LENSES, LINEAGE_NAMES
from lensbench.stats.naming.claims import REPEATED, TEXT

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
    fitting = _fitting(context.spec, model)
    windows, _ = parts_of(context.text, fitting, model)
    n_tokens = int(run.record.settings["context"])
    repeated = sequences_of(_known(model, windows), context.spec.repeats, n_tokens)
    about = {"run": run.name, "seed": item.seed, "step": item.step}
    if item.run is None:
        about["run"] = UNTRAINED
        model = untrained(model, item.seed)
        heads = read_heads(model, {REPEATED: repeated})
        return Part(_tables(run, item, about, heads, losses_of(model, repeated)), heads.problems)
    heads = read_heads(
        model, {TEXT: [one.token_ids for one in windows["test"]], REPEATED: repeated}
    )
    identities = check_identities(model, [repeated[0][: len(repeated[0]) // 2], repeated[1]])
    require(identities)
    tables = _tables(run, item, about, heads, losses_of(model, repeated))
    tables["lineage_names"] = _about(about, heads.names(), LINEAGE_NAMES)
    tables["lineage_lenses"] = _lenses(Fitter(model, fitting, windows), about)
    gate = [identity.as_dict() for identity in (*identities, *heads.gate)]
    return Part(tables, heads.problems, {"gate": gate})


def _known(model: LensModel, windows: Mapping[CorpusPart, Sequence[Window]]) -> set[int]:
    """Tokens of the held-out text: many others of a vocabulary no training has ever shown."""
    read = {token for own in windows.values() for one in own for token in one.token_ids}
    return read - {*model.tokenizer.all_special_ids}


def _fitting(spec: AnalyseSpec, model: LensModel) -> FitSpec:
    return FitSpec(
        model=str(model.ref),
        tokens=spec.tokens,
        choose_tokens=spec.choose_tokens,
        test_tokens=spec.test_tokens,
        window=spec.window,
    )


def _tables(
    run: Run, item: Kept, about: dict[str, Any], heads: Heads, losses: tuple[float, float]
) -> dict[str, pa.Table]:
    """What is measured of every model, drawn anew or trained."""
    best = heads.best
    row = {
        "n_tokens": item.step * run.step_tokens,
        "eval_loss_nats": None if item.run is None else _logged(run, item.step),
        "first_loss_nats": losses[0],
        "repeat_loss_nats": losses[1],
        "induction": best["induction"],
        "induction_block": int(best["block"]),
        "induction_head": int(best["head"]),
    }
    return {
        "lineage": _about(about, [row], LINEAGE),
        "lineage_heads": _about(about, heads.scores, LINEAGE_HEADS),
    }


def _about(about: dict[str, Any], rows: Sequence[dict[str, Any]], table: Table) -> pa.Table:
    """Rows of a table, each of the same model."""
    return table.of_rows([row | about for row in rows])


def _logged(run: Run, step: int) -> float:
    log = run.record.table("training").dropna(subset=["eval_loss_nats"])
    return float(log.set_index("step")["eval_loss_nats"][step])


def _lenses(fitter: Fitter, about: dict[str, Any]) -> pa.Table:
    """The logit lens and a linear lens of this very step, on held-out text."""
    model = fitter.model
    require_determined(fitter)
    states = fitter.states(fitter.windows["fit"], fitter.sites)
    moments = Moments.of(states, model.n_layers, model.d_model, seed=0)
    solved = solve(fitter, range(model.n_layers), moments)
    figures = fitter.measured({"fitted": solved.lens}, fitter.sites, "test", Final(model))
    quality = quality_table(model, ["fitted", "final"], fitter.sites, figures, solved.strengths)
    return _about(about, quality.to_pylist(), LINEAGE_LENSES)
