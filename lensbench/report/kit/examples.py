"""Held-out examples: which are drawn together, and how a page picks one."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.page import Picker, items


def drawn_together(rows: pd.DataFrame) -> list[str]:
    """What each row is drawn with: the data's group, or its example with all its repetitions."""
    return [
        f"example {item}" if is_missing(group) else f"group {group}"
        for item, group in zip(rows["prompt_id"], rows["group"], strict=True)
    ]


def example_picker(rows: pd.DataFrame, options: Mapping[str, str]) -> Picker:
    """The mean over all, then every example; by the group that it is drawn with, if any."""
    named = rows.dropna(subset=["group"])
    groups = {str(i): str(g) for i, g in zip(named["prompt_id"], named["group"], strict=True)}
    return items("Example", options, {"group": groups}, f"mean over {len(options)} examples")
