"""The catalogue of tables of lens records: every number in their report is a cell of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.lens import (
    anomalies,
    caveats,
    comparison,
    contrasts,
    curves,
    headlines,
    unanswered,
)
from lensbench.report.lens.lenses import depths, guessing, sensitivity, verdicts

# name -> title, and how it is made. To add a table: one line, and its note in the template.
_TABLES: dict[str, tuple[str, Callable[[LensRecord], pd.DataFrame]]] = {
    "coverage": ("Coverage", headlines.coverage_table),
    "late_binding": ("Late binding", headlines.verdict_table),
    "milestones": ("Milestones", headlines.milestones_table),
    "depth_curves": ("Depth curves", curves.depth_curves),
    "emergence": ("Emergence", curves.emergence_curve),
    "relations": ("Relations", headlines.relations_table),
    "reverse": ("Forward and reverse", contrasts.reverse_table),
    "paraphrases": ("Paraphrases", contrasts.paraphrase_table),
    "category": ("Category before instance", contrasts.category_table),
    "category_curve": ("Category and answer by layer", curves.category_curve),
    "copying": ("Copying", curves.copying_curve),
    "controls": ("Controls", contrasts.controls_table),
    "anomaly_share": ("Anomalies", anomalies.share_table),
    "anomalies": ("Anomalous cells", anomalies.cells_table),
    "sensitivity": ("Sensitivity to the lens", sensitivity.sensitivity_table),
}

# The same, of records that have something of the kind.
_SOMETIMES: dict[str, tuple[str, Callable[[LensRecord], pd.DataFrame]]] = {
    "without_answer": ("Prompts without an answer", unanswered.summary_table),
    "without_answer_curves": ("Depth curves without an answer", curves.without_answer_curves),
    "without_answer_says": ("What the model says", unanswered.says_table),
    "answer_forms": ("Answers likelier in their other form", caveats.forms_table),
    "lens_verdicts": ("The claim by each lens", verdicts.verdicts_table),
    "lens_guesses": ("Facts that controls read too", guessing.guesses_table),
    "lens_depths": ("Depth paired between lenses", depths.depths_table),
    "lens_relations": ("Relations that move between lenses", depths.relations_table),
    "lens_forgotten": ("Read early, forgotten, read again", depths.forgotten_table),
    "lens_forgotten_facts": ("Facts read early, forgotten, read again", depths.forgotten_facts),
    "lens_depth_curves": ("Depth curves by lens", curves.depth_curves_by_lens),
    "lens_emergence": ("Emergence by lens", curves.emergence_by_lens),
}

# Those with a row for a prompt, or for a cell of one.
_OF_ITEMS = ("anomalies", "without_answer_says", "answer_forms", "lens_forgotten_facts")


def model_tables(record: LensRecord) -> dict[str, Table]:
    """All tables of one model, by name."""
    always = {name: (title, make(record)) for name, (title, make) in _TABLES.items()}
    made = {name: (title, make(record)) for name, (title, make) in _SOMETIMES.items()}
    found = catalogue(always | {name: table for name, table in made.items() if len(table[1])})
    return {name: replace(one, of_items=name in _OF_ITEMS) for name, one in found.items()}


def comparison_tables(
    every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]
) -> dict[str, Table]:
    """The tables over several models; `own` holds each model's tables."""
    return catalogue(
        {
            "models": ("Models", comparison.models_table(every, own)),
            "pairs": ("Paired differences", comparison.pairs_table(every)),
            "curves": ("Curves at each model's own layers", comparison.curves_table(every, own)),
        }
    )
