"""The interactive page of lens records: every prompt's heat maps, its curves and the means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from lensbench.records.lens.kind import LensKind
from lensbench.records.lens.record import LensRecord
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.page import (
    MOST_ITEMS,
    Chart,
    Facts,
    Page,
    Picker,
    chart,
    items,
    page_html,
)
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import (
    Axis,
    Lines,
    Texts,
    View,
)
from lensbench.report.lens.comparison import CURVES, labels
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.report.lens.shown import SHOWN, Shown
from lensbench.report.lens.views import COMPARED, DEPTH, MEASURES, blocks_only, dash_of, medians
from lensbench.report.manifest import gate_brief

MOST_NAMED = 3  # models in a title or sentence
MOST_HEAT_MAPS = 2  # models side by side; of more one is picked
MOST_ROWS = 100_000  # of heat maps in one page: layers times prompts, over all models
_OF_PROMPTS = ["prompt", "relation", "answer", "answer_id"]
_RANK1 = Axis("answer at rank 1", percent=True, flag="at rank 1")


def records_page(every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]) -> Page:
    """The page over lens records, by the names of their models; `own`: the tables of each.

    Of the records only the prompts that can be picked are read: as many as a page holds.
    """
    named, prompts = labels(every), _asked(list(every.values()))
    lenses = [(name, lens) for name, record in every.items() for lens in record.headline_lenses]
    picked = prompts.head(_most(every[name].n_layers for name, _ in lenses))
    shown = [
        _by_lens(named[name], every[name].anew(), own[name], lens, picked.index)
        for name, lens in lenses
    ]
    return lens_page(shown, picked, len(prompts))


def _asked(records: Sequence[LensRecord]) -> pd.DataFrame:
    """The prompts of several records, each once, by id: see `_ordered`."""
    found, whole = pd.DataFrame(columns=_OF_PROMPTS), set[str]()
    for record in records:
        own = record.anew().base_prompts[_OF_PROMPTS]
        found = pd.concat([found, own[~own.index.isin(found.index)]]) if len(found) else own
        rows = record.arrow("lens", ["prompt_id"], [("is_last", "=", False)])
        whole |= set(rows["prompt_id"].unique().to_pylist())
    return _ordered(found, whole)


def _ordered(prompts: pd.DataFrame, whole: Collection[str]) -> pd.DataFrame:
    """Prompts to choose from: those that were read at all positions first, then by relation."""
    first = prompts.index.isin(list(whole))
    return pd.concat([prompts[first], prompts[~first].sort_values("relation", kind="stable")])


def _most(n_layers: Iterable[int]) -> int:
    """How many prompts can be picked, shown by so many models or lenses of so many layers."""
    return min(MOST_ITEMS, max(MOST_ROWS // sum(n + 1 for n in n_layers), 1))


def _by_lens(
    model: str, record: LensRecord, tables: Mapping[str, Table], lens: str, picked: pd.Index
) -> Shown:
    """One record by one lens; the tables of another lens than the main one are parts of others."""
    filters = [("lens", "=", lens), ("site", "!=", "resid_mid"), ("prompt_id", "in", list(picked))]
    marks, base = record.milestones, record.base_prompts
    marks = marks[(marks["lens"] == lens) & marks["prompt_id"].isin(picked)]
    if lens != record.main_lens:
        parts = {"late_binding": "lens_verdicts"} | {one: f"lens_{one}" for one in CURVES}
        frames = {one: tables[part].frame for one, part in parts.items()}
        tables = {
            one: Table(one, "", frame[frame["lens"] == lens]) for one, frame in frames.items()
        }
    several = len(record.headline_lenses) > 1
    return Shown(
        f"{model} by {lens}" if several else model,
        record.n_layers,
        base.loc[base.index.isin(picked), _OF_PROMPTS],
        record.table("lens", list(SHOWN), filters),
        marks.set_index("prompt_id"),
        tables,
        record.lens_kind(lens),
        gate_brief(record.manifest),
        model,
    )


def reading_page(
    name: str,
    prompts: pd.DataFrame,
    rows: pd.DataFrame,
    exact: Sequence[str],
    kinds: Mapping[str, LensKind],
) -> bytes:
    """The page of a reading that is no record: a result's prompts and rows, and how exact it is."""
    rows = rows[rows["site"] != "resid_mid"]
    prompts, n_layers = prompts.set_index("prompt_id"), int(rows["layer"].max())
    by_lens = {str(lens): own for lens, own in rows.groupby("lens", sort=False)}
    shown = [
        Shown(
            f"{name}, {lens}" if len(by_lens) > 1 else name,
            n_layers,
            prompts,
            own,
            milestones=pd.DataFrame(),
            tables={},
            kind=kinds[lens],
            model=name,
        )
        for lens, own in by_lens.items()
    ]
    facts = Facts(f"{name}: {exact[0]}", [("lens", ", ".join(by_lens)), ("gate", "; ".join(exact))])
    asked = _ordered(prompts, set(rows.loc[~rows["is_last"], "prompt_id"]))
    picked = asked.head(_most(model.n_layers for model in shown))
    return page_html(lens_page(shown, picked, len(asked)), facts)


def lens_page(models: Sequence[Shown], prompts: pd.DataFrame, n_asked: int) -> Page:
    """What differs between models first, then texts, curves and heat maps of each of `prompts`.

    Those are the ones that can be picked, of `n_asked` that there are.
    """
    prompt, colour = (
        _prompt_picker(models, prompts, n_asked),
        Picker("Colour", {"": "top token", **MEASURES}),
    )
    by_name = {model.name: model for model in models}
    many = len(models) > MOST_HEAT_MAPS
    called = "Model" if len({model.model for model in models}) > 1 else "Lens"
    which = [Picker(called, dict(zip(by_name, by_name, strict=True)))] if many else []
    maps = _heat_maps(by_name, prompt, colour, which)
    curves = [
        *(
            _curves(models, prompt, ("depth_curves", column), column, Axis(title))
            for column, title in MEASURES.items()
        ),
        _curves(models, prompt, ("emergence", "answer_rank1_share"), "answer_rank", _RANK1),
    ]
    charts = [
        *_compared(models),
        chart("This prompt", "", [prompt], lambda item: _texts(models, prompts, item), size="wide"),
        *([*curves, *maps] if many else [*maps, *curves]),
    ]
    names = _some(list(by_name))
    pickers = (prompt, colour, *which)
    return Page(f"When does it know? {names}", _sentence(models), pickers, charts)


def _sentence(models: Sequence[Shown]) -> str:
    """How to read the page, and what each model was read through."""
    through: dict[str, list[str]] = {}
    for model in models:
        through.setdefault(model.kind.words, []).append(model.name)
    read = "; ".join(
        words if len(through) == 1 else f"{words} ({_some(names)})"
        for words, names in through.items()
    )
    return (
        "Curves: this prompt's at its last position; dotted, the mean over all with its 95 % "
        f"interval over relations. Each row of a heat map is a layer read through {read} (layer "
        "0 is the embedding), each cell shows the top token, with spaces as ·; an orange frame "
        "marks the answer at rank 1. Click a cell to keep its numbers."
    )


def _some(names: Sequence[str]) -> str:
    """A few names, or how many there are."""
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} models"


def _compared(models: Sequence[Shown]) -> list[Chart]:
    """Of two models and more: the median depths and the mean curves of all."""
    told = [model for model in models if "late_binding" in model.tables]
    if len(told) < 2:
        return []
    depths = [model.tables["late_binding"].frame["median_depth"].tolist() for model in told]
    frame = pd.DataFrame(
        {
            f"{name}_depth": column
            for name, column in zip(EMERGENCE, zip(*depths, strict=True), strict=True)
        }
    )
    labels = [f"{m.name} (n = {d[0].n})" for m, d in zip(told, depths, strict=True)]
    dots = medians(frame, labels, "median depth")
    gates: dict[str, list[str]] = {}
    for model in told:
        gates.setdefault(model.gate, []).append(model.name)
    said = "; ".join(f"{gate} ({_some(names)})" for gate, names in gates.items())
    sentence = f"Over the n prompts that a model is right on and that reach it. Gates: {said}."
    return [
        chart("When the answer emerges", sentence, [], lambda: dots, size="wide"),
        *(
            chart(
                title, "Means over each model's base prompts.", [], lambda c=column: _means(told, c)
            )
            for column, title in COMPARED.items()
        ),
    ]


def _means(models: Sequence[Shown], column: str) -> Lines:
    """One curve of every model, at its own layers."""
    table = next(name for name, columns in CURVES.items() if column in columns)
    lines = [
        replace(line, name=model.name, dash=dash_of(i))
        for i, model in enumerate(models)
        if (line := model.mean(table, column))
    ]
    limits = blocks_only(lines) if column == "kl_bits" else None
    y = Axis(COMPARED[column], percent=column.endswith("share"))
    return Lines(DEPTH, y, {}, lines, limits=limits)


def _heat_maps(
    models: Mapping[str, Shown], prompt: Picker, colour: Picker, which: Sequence[Picker]
) -> list[Chart]:
    """A heat map for each model, side by side; of many models one, of the model that is picked."""
    if which:
        make = lambda item, measure, name: models[name].tokens(item, measure)  # noqa: E731
        return [chart("Top tokens", "", [prompt, colour, *which], make, size="wide")]
    size: Literal["", "wide"] = "wide" if len(models) == 1 else ""
    return [
        chart(name, "", [prompt, colour], model.tokens, size=size) for name, model in models.items()
    ]


def _prompt_picker(models: Sequence[Shown], prompts: pd.DataFrame, n_asked: int) -> Picker:
    """Found by text, and filtered by relation and by whether a model is top-1 correct."""
    options = {str(item): f"{row['prompt']} → {_answer(row)}" for item, row in prompts.iterrows()}
    facets = {"relation": {str(item): str(name) for item, name in prompts["relation"].items()}}
    once = {model.model: model for model in models}  # whatever the lens: it is of the model
    for model in once.values():
        if len(models) > MOST_HEAT_MAPS:
            break
        name = "top-1" if len(once) == 1 else f"top-1 of {model.model}"
        if "top1_correct" in model.milestones:
            facets[name] = top1_facet(model.milestones["top1_correct"])
    if len(models) > MOST_HEAT_MAPS:
        facets["top-1 correct"] = _by_how_many(models)
    return items("Prompt", options, facets, n_all=n_asked)


def _by_how_many(models: Sequence[Shown]) -> dict[str, str]:
    """Of every prompt, whether all models are top-1 correct, some, or none of those asked."""
    told = pd.concat(
        [m.milestones["top1_correct"] for m in models if "top1_correct" in m.milestones]
    )
    share = told.dropna().astype(float).groupby(level=0).mean()
    return {
        str(item): "by all models" if mean == 1 else "by some" if mean else "by none"
        for item, mean in share.items()
    }


def top1_facet(correct: pd.Series) -> dict[str, str]:
    """Of every prompt, whether a model is top-1 correct."""
    told = correct.dropna().items()
    return {str(item): "correct" if right else "not correct" for item, right in told}


def _answer(prompt: Any) -> str:
    return "no answer" if is_missing(prompt["answer"]) else str(prompt["answer"])


def _texts(models: Sequence[Shown], prompts: pd.DataFrame, item: str) -> Texts:
    row = prompts.loc[item]
    asked = [("prompt", str(row["prompt"])), ("answer", _answer(row))]
    if not is_missing(row["relation"]):
        asked.append(("relation", str(row["relation"])))
    return Texts([*asked, *(model.summary(item) for model in models)])


def _curves(
    models: Sequence[Shown], prompt: Picker, mean: tuple[str, str], column: str, y: Axis
) -> Chart:
    """A prompt's curve for each model over the means of all prompts, of a table's column."""
    known = [line for model in models if (line := model.mean(*mean))]
    under = Lines(DEPTH, y, {}, known) if known else None

    def view(item: str) -> View:
        lines = [model.line(item, column) for model in models]
        limits = blocks_only([*known, *lines]) if column == "kl_bits" else None
        return Lines(DEPTH, y, {}, lines, limits=limits)

    size: Literal["", "small"] = "" if len(models) > MOST_HEAT_MAPS else "small"
    return chart(y.title, "", [prompt], view, under, size=size)
