"""The report of a set of texts that were classified by several methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.text.classification import LABELS, METHODS, PUBLISHED, PUBLISHED_OF
from lensbench.report.classification.figures import against_trained
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import to_svg
from lensbench.report.kit.page import Page, chart
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dots, Line
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate, cells_of, jointly, of_record

_KEY = ["method", "model", "labels"]
_FEW = "too few bunches of examples, or too much alike"
_FEW_SEEDS = "too few seeds, or too much alike"
_NO_EXAMPLES = "no examples"


def classification(record: Record, name: str) -> Section:
    """One set's record."""
    made = tables(record)
    methods = made["methods"].frame
    findings = list(_findings(methods))
    figures: dict[str, Callable[[], bytes]] = {}
    own = methods[methods["labels"] == "own"]
    drawn = own[own["method"] != "majority"]
    if len(drawn):
        shown = drawn.assign(name=[_name(row) for row in drawn.to_dict("records")])
        figures["trained"] = partial(to_svg, against_trained, shown, _chance(own))
    text, limitations = written(
        "classification",
        tables=made,
        figures=figures,
        findings=findings,
        meanings={one: METHODS[one] for one in methods["method"].unique()},
        labels=LABELS,
        settings=record.settings,
        examples=record.manifest.get("examples", {}),
        encoder=(record.model.get("encoder") or {}).get("name"),
        n_cut=int(record.table("class_costs")["n_cut"].fillna(0).max()) if len(methods) else 0,
        published_of=PUBLISHED_OF,
    )
    return Section(
        title=f"{name}: prompt or fine-tune",
        tables=made,
        text=text,
        headline=findings[0] if findings else "nothing was measured",
        limitations=limitations,
        figures=figures,
        page=partial(_page, name, methods) if len(methods) else None,
        cover="trained" if figures else "",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    costs = record.table("class_costs")
    return catalogue(
        {
            "methods": ("Methods", _methods(record.table("class_accuracy"), costs)),
            "published": ("What is said elsewhere", _published(record)),
            "runs": ("Runs", costs),
        }
    )


def _methods(accuracy: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A row a method: accuracy with both intervals, and what it costs over seeds."""
    frame = accuracy[_KEY].copy()
    rows = accuracy.to_dict("records")
    frame["accuracy"] = pd.Series([_over_examples(row) for row in rows], dtype=object)
    frame["over_seeds_accuracy"] = pd.Series([_over_seeds(row) for row in rows], dtype=object)
    frame["less_full_pp"] = pd.Series([_less_full(row) for row in rows], dtype=object)
    frame[["n_test", "n_seeds"]] = accuracy[["n_test", "n_seeds"]]
    spent = [_spent(row, costs) for row in rows]
    columns = ["n_trainable", "saved_kb", "learn_s", "test_s", "memory_mb"]
    frame[columns] = pd.DataFrame(spent, frame.index, columns, dtype=float)
    return frame.astype({"n_trainable": "Int64"})


def _over_examples(row: Mapping[Any, Any]) -> Estimate:
    ends = cells_of(row, "accuracy")
    return of_record(ends, row["n_test"], _NO_EXAMPLES, _FEW, row["n_bunches"])


def _over_seeds(row: Mapping[Any, Any]) -> Estimate:
    alone = row["n_seeds"] == 1
    few = "nothing is drawn, or one seed" if alone else _FEW_SEEDS
    ends = [row["accuracy"], row["seeds_low"], row["seeds_high"]]
    return of_record(ends, row["n_seeds"], _NO_EXAMPLES, few)


def _less_full(row: Mapping[Any, Any]) -> Estimate:
    itself = row["method"] == "full" and row["labels"] == "own"
    why = "it is compared with itself" if itself else "full fine-tuning was not asked for"
    ends = cells_of(row, "less_full_pp")
    few = f"{_FEW}, or {_FEW_SEEDS}"
    return of_record(ends, row["n_test"], why, few, row["n_bunches"])


def _spent(row: Mapping[Any, Any], costs: pd.DataFrame) -> dict[str, float]:
    """Of the method's runs; a calibrated one's are those of the method."""
    method = str(row["method"]).removesuffix("_calibrated")
    same = (costs["method"] == method) & (costs["labels"] == row["labels"])
    model = costs["model"].isna() if pd.isna(row["model"]) else costs["model"] == row["model"]
    own = costs[same & model]
    return {
        "n_trainable": own["n_trainable"].max(),
        "saved_kb": own["saved_bytes"].max() / 1e3,
        "learn_s": round(own["learn_wall_s"].median(), 2),
        "test_s": round(own["test_wall_s"].median(), 2),
        "memory_mb": round(own["memory_bytes"].max() / 1e6),
    }


def _published(record: Record) -> pd.DataFrame:
    """What goes round, beside what is measured here with another model on other texts."""
    accuracy = record.table("class_accuracy")
    own = {row["method"]: row for row in accuracy[accuracy["labels"] == "own"].to_dict("records")}
    rows = []
    for method, (least, most) in PUBLISHED.items():
        here = [_over_examples(own[method])] if method in own else []
        rows.append(
            {
                "method": method,
                "published_least_accuracy": least,
                "published_most_accuracy": most,
                "published_of": PUBLISHED_OF,
                "measured_accuracy": here[0] if here else Estimate(None, None, None, 0, 0, _ASKED),
                "measured_of": f"{(record.model.get('encoder') or {}).get('name')} on "
                f"{record.model['name']}",
                "verdict": "none: another model and other texts",
            }
        )
    return pd.DataFrame(rows)


_ASKED = "it was not asked for"


def _findings(methods: pd.DataFrame) -> Iterator[str]:
    """A sentence for each thing that is to be learnt, as far as it was measured."""
    own = methods[methods["labels"] == "own"].to_dict("records")
    if not own:
        return
    real = [row for row in own if row["method"] != "majority"] or own
    best = max(real, key=lambda row: row["accuracy"].value)
    yield markdown(
        f"Highest of {len(real)}: {_name(best)} with "
        f"{numbers.estimate(best['accuracy'], 'accuracy')} of {best['n_test']} texts"
    )
    for row in own:
        if row["less_full_pp"].value is not None and row["method"] != "majority":
            yield markdown(_beside_full(row))
    yield from _control_findings(methods, _chance(methods))


def _beside_full(row: Mapping[Any, Any]) -> str:
    gap = row["less_full_pp"]
    told = "cannot be told from full fine-tuning"
    if gap.low is not None and gap.low > 0:
        told = "is above full fine-tuning"
    elif gap.high is not None and gap.high < 0:
        told = "is below full fine-tuning"
    elif gap.low is None:
        told = "beside full fine-tuning"
    return f"{_name(row)} {told}: {numbers.estimate(gap, 'pp')}"


def _control_findings(methods: pd.DataFrame, chance: float | None) -> Iterator[str]:
    """Which of those that were trained on shuffled labels are at chance, over texts and seeds.

    And what becomes of prompts with such examples, whose labels the model knows all the same.
    """
    rows = methods[methods["labels"] == "shuffled"].to_dict("records")
    trained = [row for row in rows if row["n_trainable"] > 0]
    if trained and chance is not None:
        yield markdown(_beside_chance(trained, chance))
    if prompted := [row for row in rows if not row["n_trainable"] > 0]:
        yield markdown(
            f"With the labels of the shown examples shuffled: {', '.join(map(_said, prompted))}"
        )


def _beside_chance(rows: Sequence[Mapping[Any, Any]], chance: float) -> str:
    both = [(row, jointly(row["accuracy"], row["over_seeds_accuracy"])) for row in rows]
    known = [
        (row, one.low, one.high)
        for row, one in both
        if one.low is not None and one.high is not None
    ]
    off = [row for row, low, high in known if not low <= chance <= high]
    said = f"Trained on shuffled labels, {len(known) - len(off)} of {len(rows)} methods have chance"
    said += " in their interval over texts and seeds"
    said += f"; not {', '.join(map(_said, off))}" if off else ""
    rest = len(rows) - len(known)
    return said + (f"; {rest} {'has' if rest == 1 else 'have'} no such interval" if rest else "")


def _said(row: Mapping[Any, Any]) -> str:
    return f"{_name(row)} {numbers.estimate(row['accuracy'], 'accuracy')}"


def _chance(methods: pd.DataFrame) -> float | None:
    """What the most frequent label reaches, where it was asked for."""
    own = methods[methods["method"] == "majority"]["accuracy"]
    return own.iloc[0].value if len(own) else None


def _name(row: Mapping[Any, Any]) -> str:
    method = str(row["method"]).replace("_calibrated", ", calibrated").replace("_", "-")
    return f"{method}, {row['model']}" if isinstance(row["model"], str) else method


def _page(name: str, methods: pd.DataFrame) -> Page:
    """Every method's accuracy, with own and with shuffled labels."""
    cells = {(_name(row), row["labels"]): row["accuracy"] for row in methods.to_dict("records")}
    series = [one for one in LABELS if one in set(methods["labels"])]
    missing = Estimate(None, None, None, 0, 0, "there is nothing to shuffle, or it was not asked")
    rows = list(dict.fromkeys(method for method, _ in cells))
    lines = [Line(row, [cells.get((row, one), missing) for one in series]) for row in rows]
    axis = Axis("accuracy on tested texts", percent=True)
    own = chart(
        "Every method on the same texts",
        "Bars: 95 % intervals over texts. Learnt from the texts' own labels, or shuffled ones.",
        (),
        lambda: Dots(axis, lines, series=series),
    )
    return Page(f"{name}: prompt or fine-tune", "Labelled texts told apart.", (), [own])
