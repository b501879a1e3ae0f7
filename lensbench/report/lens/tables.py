"""The catalogue of tables of lens records: every number in their report is a cell of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from lensbench.records.lens_record import LensRecord
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.lens import anomalies, comparison, contrasts, curves, headlines, sensitivity

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


def model_tables(record: LensRecord) -> dict[str, Table]:
    """All tables of one model, by name."""
    return catalogue({name: (title, make(record)) for name, (title, make) in _TABLES.items()})


def comparison_tables(
    every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]
) -> dict[str, Table]:
    """The tables over several models; `own` holds each model's tables."""
    n_layers = {name: record.n_layers for name, record in every.items()}
    return catalogue(
        {
            "models": ("Models", comparison.models_table(n_layers, own)),
            "pairs": ("Paired differences", comparison.pairs_table(every)),
            "curves": ("Curves on equal relative depth", comparison.grid_table(own)),
        }
    )
