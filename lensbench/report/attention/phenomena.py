"""Phenomena in a report: which head finds the word that belongs to another, and how deep it is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from lensbench.records.record import Record
from lensbench.report.kit.table import Table, catalogue
from lensbench.stats.estimates import Estimate, cells_of, of_record
from lensbench.stats.halves import halves

_FEW = "too few sentences for an interval"
_FEW_PROMPTS = "too few prompts for an interval"
_NOTHING = {  # why a column has no number where a phenomenon has some
    "above_distractor": "no question of the other half has a distractor",
    "over_untrained": "the untrained model was not asked the same",
}
_BEST = [
    "weighting",
    "phenomenon",
    "direction",
    "head",
    "first_half_accuracy",
    "accuracy",
    "offset",
    "offset_accuracy",
    "above_offset_pp",
    "above_untrained_pp",
    "above_distractor_share",
    "questions",
]
_THIRDS = ("early", "middle", "deep")
_TITLES = {
    "phenomena": "The head that finds a word best",
    "depths": "Where in the depth",
    "without": "What is lost without the head that finds a word best",
}
_LOST = ("change_bits", "others_bits", "above_others_bits")


def phenomena_tables(record: Record) -> dict[str, Table]:
    """What a record says of phenomena; nothing where it was not asked."""
    if "depths" not in record.tables:
        return {}
    frames = {
        "phenomena": best_heads(
            record.table("phenomena"), record.table("answers"), record.settings["seed"]
        ),
        "depths": depths(record.table("depths")),
    }
    if "phenomenon_ablation" in record.tables:
        frames["without"] = without(record.table("phenomenon_ablation"))
    return catalogue({name: (_TITLES[name], frame) for name, frame in frames.items()})


def best_heads(rows: pd.DataFrame, answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row per weighting, phenomenon and direction.

    Args:
        rows: of the table `phenomena`, made of `answers` with the run's seed.
    """
    found = []
    for row in rows.to_dict("records"):
        held, with_distractor = _held_out(answers, row, seed)
        n, n_distractors = (row["n_questions"], held), (row["n_distractors"], with_distractor)
        found.append(
            {
                "weighting": row["weighting"],
                "phenomenon": row["phenomenon"],
                "direction": row["direction"],
                "head": _head(row),
                "first_half_accuracy": row["first_half_accuracy"],
                "accuracy": _estimate(row, "accuracy", *n),
                "offset": row["offset"],
                "offset_accuracy": _estimate(row, "offset_accuracy", *n),
                "above_offset_pp": _estimate(row, "over_offset", *n),
                "above_untrained_pp": _estimate(row, "over_untrained", *n),
                "above_distractor_share": _estimate(row, "above_distractor", *n_distractors),
                "questions": row["n_questions"],
            }
        )
    return pd.DataFrame(found, columns=_BEST)


def _held_out(answers: pd.DataFrame, row: dict[Hashable, Any], seed: int) -> tuple[int, int]:
    """Sentences of the half on which a row's head was tested, and those with a distractor."""
    own = answers[answers["who"] == "trained"]
    for key in ("weighting", "phenomenon", "direction"):
        own = own[own[key] == row[key]]
    split = halves(own["prompt_id"].tolist(), seed)
    if split is None:
        return 0, 0
    held = own.iloc[split[1]]
    with_distractor = held.loc[held["above_distractor"].notna(), "prompt_id"]
    return held["prompt_id"].nunique(), with_distractor.nunique()


def without(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per weighting, phenomenon, direction and text predicted, without the best head."""
    found = [
        {
            "weighting": row["weighting"],
            "phenomenon": row["phenomenon"],
            "predicted": row["predicted"],
            "head": _head(row),
            **{
                name: _estimate(row, name, row["n_questions"], row["n_sentences"]) for name in _LOST
            },
            "less_without_share": row["share_below"],
            "questions": row["n_questions"],
        }
        for row in rows.to_dict("records")
    ]
    columns = ["weighting", "phenomenon", "predicted", "head", *_LOST]
    return pd.DataFrame(found, columns=[*columns, "less_without_share", "questions"])


def needed(frame: pd.DataFrame, predicted: str) -> str:
    """Phenomena without whose best head, plainly weighted, surely more is lost than without others.

    Args:
        predicted: the text of which it is lost.
    """
    own = frame[(frame["weighting"] == "plain") & (frame["predicted"] == predicted)]
    above = dict(zip(own["phenomenon"], own[_LOST[-1]], strict=True))
    if all(one.low is None for one in above.values()):
        return "it cannot be told for any"
    return ", ".join(name for name, one in above.items() if _surely(one)) or "for none"


def depths(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per weighting, claim and direction, with what follows for the claim."""
    found = []
    for row in rows.to_dict("records"):
        others = [third for third in _THIRDS if third != row["third"]]
        few = _FEW_PROMPTS if pd.isna(row["direction"]) else _FEW  # nothing is asked of prompts
        above = {
            third: _estimate(row, f"above_{third}", row["n"], row["n_sentences"], few)
            for third in others
        }
        nearest = max(others, key=lambda third: row[third])
        found.append(
            {
                "weighting": row["weighting"],
                "claim": f"{row['claim']}: {row['third']}",
                "direction": "" if pd.isna(row["direction"]) else row["direction"],
                **{f"{third}_share": row[third] for third in _THIRDS},
                "beside": nearest,
                "above_it_pp": above[nearest],
                "verdict": verdict(list(above.values())),
            }
        )
    shares = [f"{third}_share" for third in _THIRDS]
    columns = ["weighting", "claim", "direction", *shares, "beside", "above_it_pp", "verdict"]
    return pd.DataFrame(found, columns=columns)


def verdict(above: Sequence[Estimate]) -> str:
    """Whether a third has more than both others, as far as the intervals of differences tell."""
    if all(_surely(one) for one in above):
        return "holds"
    below = any(one.high is not None and one.high < 0 for one in above)
    return "does not hold" if below else "cannot tell"


def found_phenomena(frame: pd.DataFrame) -> list[str]:
    """Phenomena in which the best head, plainly weighted, is surely above offset and untrained."""
    plain = frame[frame["weighting"] == "plain"]
    sure = [
        row["phenomenon"]
        for row in plain.to_dict("records")
        if _surely(row["above_offset_pp"]) and _surely(row["above_untrained_pp"])
    ]
    return list(dict.fromkeys(sure))


def _head(row: dict[Hashable, Any]) -> str:
    return "" if pd.isna(row["block"]) else f"{row['block']:.0f}.{row['head']:.0f}"


def _surely(above: Estimate) -> bool:
    return above.low is not None and above.low > 0


def _estimate(
    row: dict[Hashable, Any], name: str, n: int, n_sentences: int, few: str = _FEW
) -> Estimate:
    """A number of a record with its interval; `few` is why it has none."""
    said = row.get("reason")
    nothing = said if isinstance(said, str) else _NOTHING.get(name, few)
    return of_record(cells_of(row, name), n, nothing, few, n_sentences)
