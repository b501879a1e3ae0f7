"""The heads of a lineage, step by step: their scores beside untrained models, and their names."""

from __future__ import annotations

import pandas as pd

from lensbench.report.kit.views import Axis, Line, Lines, of_values
from lensbench.report.pretraining.section import STEP_AXIS, places_of
from lensbench.stats.estimates import Estimate
from lensbench.stats.naming.names import UNDECIDED

UNTRAINED = "untrained"
SHOWN = {"induction": "induction", "previous_token": "previous token"}  # scores in a figure
MOST_HEADS = 8  # in a figure
_HEAD = ["block", "head"]
_WHY = ["score", "value", "null", "null_value", "q_value", "stability"]


def untrained_band(heads: pd.DataFrame, score: str) -> Estimate:
    """Mean, lowest and highest score of the best head over untrained models."""
    drawn = heads[heads["run"] == UNTRAINED].groupby("seed")[score].max()
    n = len(drawn)
    return Estimate(float(drawn.mean()), float(drawn.min()), float(drawn.max()), n, n)


def score_curves(heads: pd.DataFrame) -> list[Lines]:
    """A panel for each score and run: heads, the same in all panels, and the untrained band.

    Of more than `MOST_HEADS` those that have most of one of the scores at the last step of a run.
    """
    trained = heads[heads["run"] != UNTRAINED]
    runs = trained.merge(_most(trained)).groupby("run", sort=False)
    return [
        _scores(f"{run}: {called}", own, score, untrained_band(heads, score))
        for score, called in SHOWN.items()
        for run, own in runs
    ]


def _most(heads: pd.DataFrame) -> pd.DataFrame:
    """Block and head of those that are shown."""
    last = heads[heads["step"] == heads.groupby("run")["step"].transform("max")]
    most = last.assign(most=last[[*SHOWN]].max(axis=1)).groupby(_HEAD)["most"].max()
    return most.nlargest(MOST_HEADS).reset_index()[_HEAD]


def _scores(title: str, rows: pd.DataFrame, score: str, band: Estimate) -> Lines:
    kept = rows.sort_values([*_HEAD, "step"])
    lines = [
        Line(f"{block}.{head}", of_values(own[score]), places=places_of(own["step"]))
        for (block, head), own in kept.groupby(_HEAD)
    ]
    places = lines[0].places or {}
    lines.append(Line(UNTRAINED, [band] * len(places), dash="dash", places=places))
    return Lines(STEP_AXIS, Axis(SHOWN[score]), {}, lines, title, limits=(0.0, 1.0))


def name_curves(names: pd.DataFrame) -> list[Lines]:
    """A panel for each run: how many heads have each name."""
    return [
        Lines(STEP_AXIS, Axis("heads"), {}, _counted(own), str(run))
        for run, own in counts(names).groupby("run", sort=False)
    ]


def _counted(rows: pd.DataFrame) -> list[Line]:
    places = places_of(rows["step"])
    return [
        Line(str(name), of_values(rows[name]), places=places)
        for name in rows
        if name not in ("run", "step")
    ]


def counts(names: pd.DataFrame) -> pd.DataFrame:
    """One row per run x step: how many heads have each name, a column each."""
    found = names.groupby(["run", "step", "name"]).size().unstack(fill_value=0)
    return found.rename_axis(None, axis=1).reset_index()


def named_since(names: pd.DataFrame, name: str) -> dict[str, int | None]:
    """Of each run the first step from which at least one head has the name at every later step."""
    has = names["names"].str.split(" + ", regex=False).map(lambda own: name in own)
    found: dict[str, int | None] = {}
    for run, own in names.assign(has=has).groupby("run", sort=False):
        any_head = own.groupby("step")["has"].any().sort_index()
        since = any_head.index[any_head[::-1].cummin()[::-1]]
        found[str(run)] = int(since[0]) if len(since) else None
    return found


def named(names: pd.DataFrame) -> pd.DataFrame:
    """One row per run x head with a name at the last step: since which step, and what it rests on.

    A head of several names has all of them.
    """
    rows = []
    for (run, block, head), own in names.sort_values("step").groupby(["run", *_HEAD]):
        last = own.iloc[-1]
        if last["name"] != UNDECIDED:
            same = (own["names"] == last["names"])[::-1].cummin()[::-1]
            who = {"run": run, "block": block, "head": head, "name": last["names"]}
            rows.append(who | {"since_step": own["step"][same].iloc[0]} | dict(last[_WHY]))
    return pd.DataFrame(rows, columns=["run", *_HEAD, "name", "since_step", *_WHY])
