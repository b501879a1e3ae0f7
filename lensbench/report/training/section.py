"""The report of a training run: how the loss went, and what was trained where in the model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.read import require_unaltered
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, Picker, chart, items
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Line, Lines, Texts, of_values
from lensbench.report.section import Section, written
from lensbench.report.training.lora_flow import lora_flow

EXAMPLES = "examples.jsonl"  # beside the record: what was answered before and after
_SPLITS = {"eval": "held out", "train": "trained on"}
_LOSS = "loss (bits per response token)"
# title of a chart -> its curves: column of the log and name
_DRAWN = {
    _LOSS: {"loss_bits": "training", "eval_loss_bits": "evaluation"},
    "gradient norm": {"grad_norm": ""},
    "learning rate": {"learning_rate": ""},
}


def training(record: Record, name: str) -> Section:
    """One run's report."""
    made = tables(record)
    examples = shown_examples(record)
    settings, share = record.manifest["settings"], trainable_share(record)
    text, limitations = written(
        "training",
        tables=made,
        model=record.manifest["model"],
        settings=settings,
        share=share,
        examples=examples,
        examples_cut=record.manifest.get("examples_cut", 0),
    )
    n_layers = int(record.manifest["model"]["n_layers"])
    curve = made["training"].frame
    return Section(
        title=f"{name}: training an adapter",
        tables=made,
        text=text,
        headline=headline(record, made),
        limitations=limitations,
        figures={
            "loss_curve": partial(to_svg, panels, courses(curve)),
            "lora_flow": partial(
                to_svg, lora_flow, n_layers, made["modules"].frame, settings, share
            ),
        },
        page=partial(training_page, name, curve, examples),
        cover="loss_curve",
    )


def tables(record: Record) -> dict[str, Table]:
    """The tables of one training run, by name, in the order of the report."""
    curve = log(record)
    return catalogue(
        {
            "training_summary": ("Course of training", summary(curve)),
            "modules": ("Adapted modules", modules(record)),
            "training": ("Training log", curve),
        }
    )


def log(record: Record) -> pd.DataFrame:
    """What was logged, by step; losses in nats as they are written, and in bits."""
    frame = record.table("training").sort_values("step", kind="stable", ignore_index=True)
    at = list(frame).index("eval_loss_nats") + 1
    for name in ("eval_loss", "loss"):
        frame.insert(at, f"{name}_bits", frame[f"{name}_nats"] / math.log(2))
    return frame


def summary(curve: pd.DataFrame) -> pd.DataFrame:
    """First, last and extreme values of the log, each with its step."""
    found = [
        ("training loss, first logged", "loss_nats", "first"),
        ("training loss, last logged", "loss_nats", "last"),
        ("evaluation loss, first", "eval_loss_nats", "first"),
        ("evaluation loss, lowest", "eval_loss_nats", "lowest"),
        ("evaluation loss, last", "eval_loss_nats", "last"),
        ("gradient norm, highest", "grad_norm", "highest"),
        ("learning rate, peak", "learning_rate", "highest"),
    ]
    rows: list[dict[str, object]] = []
    for name, column, which in found:
        at = _at(curve, column, which)
        if column.endswith("nats"):
            at |= {"unit": "nats", "loss_bits": at["value"] and at["value"] / math.log(2)}
        rows.append({"measure": name, **at})
    speed = curve["tokens_per_s"].median()
    rows.append({"measure": "tokens per second, median", "step": None, "value": speed})
    return pd.DataFrame(rows).astype({"step": "Int64", "value": float, "loss_bits": float})


def _at(curve: pd.DataFrame, column: str, which: str) -> dict[str, Any]:
    """One value of a column and the step it was logged at; both missing where none was."""
    logged = curve.dropna(subset=[column])
    if logged.empty:
        return {"step": None, "value": None}
    places = {
        "first": 0,
        "last": -1,
        "lowest": int(logged[column].argmin()),
        "highest": int(logged[column].argmax()),
    }
    row = logged.iloc[places[which]]
    return {"step": int(row["step"]), "value": float(row[column])}


def modules(record: Record) -> pd.DataFrame:
    """Every adapted module: its block (missing outside the blocks), its kind, its name."""
    rows = [_module(name) for name in record.manifest["adapter"]["modules"]]
    frame = pd.DataFrame(rows, columns=["block", "target", "module"]).astype({"block": "Int64"})
    return frame.sort_values(["block", "module"], kind="stable", ignore_index=True)


def _module(name: str) -> dict[str, object]:
    """`model.layers.15.self_attn.q_proj` is block 15, target q_proj."""
    block = re.search(r"\.(\d+)\.", name)
    return {
        "block": int(block[1]) if block else None,
        "target": name.rpartition(".")[2],
        "module": name,
    }


def trainable_share(record: Record) -> str:
    """`2.25 M of 1.10 B (0.20 %)`."""
    trainable, total = (int(record.manifest["adapter"][key]) for key in ("trainable", "total"))
    return f"{_short(trainable)} of {_short(total)} ({100 * trainable / total:.2f} %)"


def _short(count: int) -> str:
    """A count of parameters in 3 digits: 2.25 M."""
    for size, letter in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + letter
    return str(count)


def courses(curve: pd.DataFrame) -> list[Lines]:
    """Losses, gradient norm and learning rate by step, a view each."""
    return [_course(curve, title) for title in _DRAWN]


def _course(curve: pd.DataFrame, title: str) -> Lines:
    lines = []
    for column, name in _DRAWN[title].items():
        logged = curve.dropna(subset=[column])
        places = {float(step): f"step {step}" for step in logged["step"]}
        if len(places):
            lines.append(
                Line(name, of_values(logged.drop_duplicates("step")[column]), places=places)
            )
    return Lines(Axis("optimiser step"), Axis(title), {}, lines, title)


def training_page(model: str, curve: pd.DataFrame, examples: list[dict[str, Any]]) -> Page:
    """The course of training, and what was answered before and after."""
    charts = [
        chart(title, "", (), partial(_course, curve, title), size="small") for title in _DRAWN
    ]
    pickers: tuple[Picker, ...] = ()
    if examples:
        by_id = {example["id"]: example for example in examples}
        split = {i: i.rpartition("(")[2].rstrip(")") for i in by_id}
        options = {i: f"{i}: {example['prompt']}" for i, example in by_id.items()}
        pickers = (items("Example", options, {"split": split}),)
        charts.append(
            chart(
                "Before and after",
                "",
                pickers,
                lambda i: Texts([("prompt", by_id[i]["prompt"]), *by_id[i]["answers"]]),
                size="wide",
            )
        )
    return Page(f"{model}: training an adapter", "The log of one run.", pickers, charts)


def shown_examples(record: Record) -> list[dict[str, Any]]:
    """The prompts that base and adapter answered after training, where the run kept them."""
    path = record.folder / EXAMPLES
    if not path.exists():
        return []
    require_unaltered(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [
        {
            "id": f"{row['id']} ({_SPLITS[row['split']]})",
            "prompt": row["instruction"],
            "answers": [
                ("reference", row["reference"]),
                ("before", row["base"]),
                ("after", row["adapter"]),
            ],
        }
        for row in rows
    ]


def _loss(row: Mapping[str, Any]) -> str:
    """`3.05 bits (2.117 nats)`"""
    return f"{numbers.number(row['loss_bits'], 'bits')} bits ({numbers.number(row['value'])} nats)"


def headline(record: Record, made: Mapping[str, Table]) -> str:
    """One sentence for an index."""
    last = made["training_summary"].row(measure="training loss, last logged")
    held_out = made["training_summary"].row(measure="evaluation loss, last")
    text = f"training loss {_loss(last)} at step {last['step']}"
    if not np.isnan(held_out["value"]):
        text += f", evaluation loss {_loss(held_out)}"
    return f"{text}; {trainable_share(record)} parameters trained"
