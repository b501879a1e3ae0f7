"""Several models that were drawn from, side by side: the settings said elsewhere, and examples."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lensbench.records.schema.text.sampling import GREEDY, OWN
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.table import catalogue
from lensbench.report.sampling.shots import ALL
from lensbench.report.section import Reported, Section

_KEPT = (OWN, GREEDY)  # beside the published ones


def models(reports: Sequence[Reported]) -> Section | None:
    """Rows of each model: published settings, and what examples add over all tasks."""
    if len(reports) < 2:
        return None
    first, texts, contrasts = (
        _of(reports, name) for name in ("first_tokens", "texts", "contrasts")
    )
    tables = {
        "next_token": ("Published settings on the next token", _published(first)),
        "published": ("Published settings on texts", _published(texts)),
        "examples": ("What examples add, all tasks", _over_tasks(contrasts)),
    }
    made = catalogue({name: one for name, one in tables.items() if not one[1].empty})
    if not made:
        return None
    templates = {one.name: bool(one.record.model["chat_template"]) for one in reports}
    text = rendered("sampling/together.md.j2", tables=made, templates=templates)
    return Section("Models side by side", made, text)


def _of(reports: Sequence[Reported], name: str) -> pd.DataFrame:
    """One table of all models, each row with its model."""
    frames = [one.section.tables[name].frame.assign(model=one.name) for one in reports]
    whole = pd.concat(frames, ignore_index=True)
    return whole[["model", *whole.columns.drop("model")]]


def _published(frame: pd.DataFrame) -> pd.DataFrame:
    if "setting" not in frame:
        return frame
    kept = (frame["published"] == "yes") | frame["setting"].isin(_KEPT)
    return frame[kept].drop(columns=["n_kept", "top_prob"], errors="ignore")


def _over_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["task"] == ALL].drop(columns="task") if "task" in frame else frame
