"""The report of a training run: how the loss went, and what was trained where in the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensbench.report.kit import numbers
from lensbench.report.kit.figures import COLOURS, WIDTH, to_svg
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.report.training.lora_flow import lora_flow

EXAMPLES = "examples.jsonl"  # beside the record: what was answered before and after
_SPLITS = {"eval": "held out", "train": "trained on"}
FEW_STEPS = 20  # logged losses: fewer show no course


def tables(record: SecondRecord) -> dict[str, Table]:
    """The tables of one training run, by name, in the order of the report."""
    curve = record.tables["training"].sort_values("step", kind="stable", ignore_index=True)
    made = [
        Table(
            "training_summary",
            "Course of training",
            summary(curve),
            "Losses are means over response tokens, in nats. Step: optimiser step.",
        ),
        Table(
            "modules",
            "Adapted modules",
            modules(record),
            "Modules that got an adapter; all others, and the weights under the adapters, stayed "
            "as they were. Blocks are counted from 0, as in the names.",
        ),
        Table("training", "Training log", curve, "One row per logged step or evaluation."),
    ]
    return {table.name: table for table in made}


def summary(curve: pd.DataFrame) -> pd.DataFrame:
    """First, last and extreme values of the log, each with its step."""
    found = [
        ("training loss, first logged", "loss", "first"),
        ("training loss, last logged", "loss", "last"),
        ("evaluation loss, first", "eval_loss", "first"),
        ("evaluation loss, lowest", "eval_loss", "lowest"),
        ("evaluation loss, last", "eval_loss", "last"),
        ("gradient norm, highest", "grad_norm", "highest"),
        ("learning rate, highest", "learning_rate", "highest"),
    ]
    rows: list[dict[str, object]] = [
        {"measure": name, **_at(curve, column, which)} for name, column, which in found
    ]
    speed = curve["tokens_per_s"].median()
    rows.append({"measure": "tokens per second, median", "step": None, "value": speed})
    return pd.DataFrame(rows).astype({"step": "Int64", "value": float})


def _at(curve: pd.DataFrame, column: str, which: str) -> dict[str, object]:
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


def modules(record: SecondRecord) -> pd.DataFrame:
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


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The figures."""
    yield "figures/loss_curve.svg", to_svg(loss_curve, made["training"].frame)
    n_layers = int(record.manifest["model"]["n_layers"])
    frame, settings = made["modules"].frame, record.manifest["settings"]
    share = trainable_share(record)
    yield "figures/lora_flow.svg", to_svg(lora_flow, n_layers, frame, settings, share)


def trainable_share(record: SecondRecord) -> str:
    """`2.25 M of 1.10 B (0.20 %)`."""
    trainable, total = (int(record.manifest["adapter"][key]) for key in ("trainable", "total"))
    return f"{_short(trainable)} of {_short(total)} ({100 * trainable / total:.2f} %)"


def _short(count: int) -> str:
    """A count of parameters in 3 digits: 2.25 M."""
    for size, letter in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + letter
    return str(count)


def loss_curve(curve: pd.DataFrame) -> Figure:
    """Training and evaluation loss by step; gradient norm and learning rate below."""
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    panels = figure.subplot_mosaic([["loss", "loss"], ["grad", "rate"]], height_ratios=[3, 2])
    _line(panels["loss"], curve, "loss", 0, "training")
    _line(panels["loss"], curve, "eval_loss", 1, "evaluation", marker="o")
    _line(panels["grad"], curve, "grad_norm", 2)
    _line(panels["rate"], curve, "learning_rate", 3)
    titles = {"loss": "loss (nats per response token)", "grad": "gradient norm"}
    for name, axis in panels.items():
        axis.set_title(titles.get(name, "learning rate"))
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(True)
    panels["rate"].ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=False)
    if panels["loss"].get_legend_handles_labels()[0]:
        panels["loss"].legend(loc="upper right")
    return figure


def _line(
    axis: Axes, curve: pd.DataFrame, column: str, colour: int, label: str = "", marker: str = ""
) -> None:
    """The logged values of one column; a single one is a dot."""
    logged = curve.dropna(subset=[column])
    if logged.empty:
        if not label:  # a panel of its own
            axis.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axis.transAxes)
        return
    marker = marker or ("." if len(logged) == 1 else "")
    axis.plot(logged["step"], logged[column], color=COLOURS[colour], marker=marker, label=label)


def shown_examples(record: SecondRecord) -> list[dict[str, Any]]:
    """The prompts that base and adapter answered after training, where the run kept them."""
    path = record.folder / EXAMPLES
    if not path.exists():
        return []
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


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """One sentence for an index."""
    last = made["training_summary"].row(measure="training loss, last logged")
    held_out = made["training_summary"].row(measure="evaluation loss, last")
    text = f"training loss {numbers.number(last['value'])} nats at step {last['step']}"
    if not np.isnan(held_out["value"]):
        text += f", evaluation loss {numbers.number(held_out['value'])}"
    return f"{text}; {trainable_share(record)} parameters trained"


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What this run of training cannot show, from its own numbers."""
    lines = ["One run with one seed: how much another seed would change is not measured."]
    lowest, last = (
        made["training_summary"].row(measure=f"evaluation loss, {which}")
        for which in ("lowest", "last")
    )
    if np.isnan(last["value"]):
        lines.append("No evaluation split: whether this learned more than its examples is unknown.")
    elif last["value"] > lowest["value"]:
        lines.append(
            f"Evaluation loss was lowest at step {lowest['step']} "
            f"({numbers.number(lowest['value'])}) and {numbers.number(last['value'])} at the end: "
            "what came after fits the training examples only (table Course of training)."
        )
    cut = record.manifest.get("examples_cut", 0)
    if cut:
        lines.append(
            f"Examples that were cut, and so taught no end: {cut} (listed under Problems)."
        )
    n_losses = int(made["training"].frame["loss"].notna().sum())
    if n_losses < FEW_STEPS:
        lines.append(f"Few logged losses: {n_losses} (table Training log).")
    return lines
