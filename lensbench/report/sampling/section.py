"""The report of a model that is drawn from."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.text.sampling import OWN, SHOTS
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dots, Line
from lensbench.report.sampling.settings import (
    beside_own,
    by_relation,
    first_tokens,
    texts,
)
from lensbench.report.sampling.shots import ALL, accuracies, contrasts
from lensbench.report.section import Section, written

_RELATIONS = (OWN, "T=0.7", "top-p=0.9")  # whose dependence on prompts is shown
_ZERO, _FEW = "instruction", "examples"
_PANELS = {
    "grid": (("entropy_bits", "entropy, bits"), ("total_variation", "total variation")),
    "texts": (
        ("bits_per_token", "bits a token"),
        ("distinct_2_share", "distinct pairs"),
        ("self_bleu", "self-BLEU"),
    ),
}
_NOTHING = "(no text: it ended at once)"
_TABLE = {"grid": "first_tokens", "texts": "texts"}


def sampling(record: Record, name: str) -> Section:
    """One model's record."""
    made = tables(record)
    views = figures(made)
    prompts = record.table("sampled_prompts")
    text, limitations = written(
        "sampling",
        tables=made,
        figures=views,
        model=record.model,
        settings=record.settings,
        n_prompts=len(prompts),
        n_relations=prompts["relation"].nunique(),
        n_continued=int(prompts["is_continued"].sum()),
        shots=SHOTS,
        shown_shots=_of_all(made["shots"]),
        shown_contrasts=_of_all(made["contrasts"]),
        example=_example(made["written"].frame),
    )
    charts = [one for own in views.values() for one in own]
    return Section(
        title=f"{name}: how it is drawn from",
        tables=made,
        text=text,
        headline=headline(made),
        limitations=limitations,
        figures={key: partial(to_svg, panels, own, len(own)) for key, own in views.items()},
        page=(lambda: _page(name, charts)) if charts else None,
        cover="texts" if "texts" in views else "grid",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    settings, prompts = record.table("sampling_settings"), record.table("sampled_prompts")
    first, sets = record.table("first_tokens"), record.table("sampled_sets")
    rows, asked = record.table("sampled_texts"), record.table("shots")
    kinds = prompts.set_index("prompt_id")["relation"]
    return catalogue(
        {
            "first_tokens": ("Settings on the next token", first_tokens(first, settings, kinds)),
            "relations": ("By kind of prompt", by_relation(first, _RELATIONS, kinds)),
            "texts": ("Settings on texts", texts(sets, rows, settings, kinds)),
            "beside_own": ("Beside the model's own distribution", beside_own(sets, kinds)),
            "shots": ("Tasks with and without examples", accuracies(asked)),
            "contrasts": ("What examples, their answers and the template add", contrasts(asked)),
            "answers": ("Every answer", asked.drop(columns="model")),
            "written": ("Every text", _with_prompts(rows, prompts)),
        }
    )


def figures(made: dict[str, Table]) -> dict[str, list[Dots]]:
    """Dots with intervals: a row a setting, and a row a condition of the tasks."""
    found = {}
    for key, columns in _PANELS.items():
        frame = made[_TABLE[key]].frame
        if not frame.empty:
            found[key] = [_dots(frame, "setting", *one) for one in columns]
    shots = _of_all(made["shots"])
    if not shots.empty:
        found["shots"] = [_dots(shots, "condition", "accuracy", "accuracy, all tasks")]
    return found


def _dots(frame: pd.DataFrame, label: str, column: str, title: str) -> Dots:
    percent = column.endswith(("share", "accuracy"))
    lines = [Line(str(row[label]), [row[column]]) for row in frame.to_dict("records")]
    return Dots(Axis(title, percent=percent), lines, title=title)


def _page(name: str, charts: list[Dots]) -> Page:
    sentence = "Bars: 95 % intervals over kinds of prompt, or over items of tasks."
    return Page(f"{name}: sampling", "Setting by setting.", (), plain_charts(charts, sentence))


def _of_all(table: Table) -> pd.DataFrame:
    frame = table.frame
    return frame[frame["task"] == ALL].drop(columns="task")


def _with_prompts(rows: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    prompt = rows["prompt_id"].map(prompts.set_index("prompt_id")["prompt"])
    found = rows.drop(columns="model")
    found.insert(1, "prompt", prompt)
    return found


def _example(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The first draw of every setting of the first prompt."""
    if rows.empty:
        return None
    own = rows[(rows["prompt_id"] == rows["prompt_id"].iloc[0]) & (rows["draw"] == 0)]
    said = own["text"].where(own["text"] != "", _NOTHING)
    answers = list(zip(own["setting"], said, strict=True))
    return {"id": own["prompt_id"].iloc[0], "prompt": own["prompt"].iloc[0], "answers": answers}


def headline(made: dict[str, Table]) -> str:
    """The model's own entropy, what texts of it cost, and what examples add."""
    told = []
    first = made["first_tokens"].frame
    if (first["setting"] == OWN).any():
        own = made["first_tokens"].row(setting=OWN)
        told.append(
            f"Entropy of the next token {numbers.estimate(own['entropy_bits'], 'bits')} bits over "
            f"{own['n_prompts']} prompts"
        )
    shots = _of_all(made["shots"])
    for condition, called in ((_ZERO, "zero-shot"), (_FEW, "few-shot")):
        own_rows = shots[shots["condition"] == condition].to_dict("records")
        told += [
            f"{called} {numbers.estimate(one['accuracy'], 'accuracy')} of {one['n_items']} items"
            for one in own_rows
        ]
    return markdown("; ".join(told))
