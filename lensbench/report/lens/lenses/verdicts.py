"""The claim by every lens that may stand in a headline, and how the main one was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.lens.record import LensRecord
from lensbench.report.kit import numbers
from lensbench.report.kit.table import Table
from lensbench.report.lens.headlines import EMERGENCE, claim_verdict, milestone_depth
from lensbench.report.lens.lenses.guessing import has_controls

_UNTOLD = "cannot tell"
CONTROL = (
    "A fact counts as read by a fitted lens only if no control of it has the answer at that rank: "
    "controls are given the last token's embedding alone, without the prompt, by maps fitted like "
    "the lens' own and to other tokens' targets, and what they read too counts at no layer"
)


def verdicts_table(record: LensRecord) -> pd.DataFrame:
    """One row per lens and emergence, the main lens first; of one lens alone nothing.

    Held-out KL is a mean over the layers below the last. That of `final` is on the same tokens as
    the lens in its row.
    """
    lenses, rows = record.headline_lenses, []
    if len(lenses) < 2:
        return pd.DataFrame()
    for lens in lenses:
        told = record.held_out.get(lens)
        for name, words in EMERGENCE.items():
            depth = milestone_depth(record, name, lens)
            verdict = claim_verdict(depth)
            rows.append(
                {
                    "lens": lens,
                    "emergence": words,
                    "held_out_kl_bits": told.kl_bits if told else None,
                    "held_out_final_kl_bits": told.final_kl_bits if told else None,
                    "median_depth": depth,
                    "n_prompts": depth.n,
                    "verdict": verdict.answer,
                    "reason": verdict.reason,
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Told:
    """What a report says of the choice of lens."""

    rule: str  # which lens the headlines are of, and why
    agreement: list[str]  # whether the verdict depends on it
    unchosen: list[str]  # fitted lenses whose figures are not of this model as it ran
    uncontrolled: list[str]  # fitted lenses of which no control was read
    control: str  # when a fact counts as read, beside what controls read
    several_texts: bool  # held-out KL was measured on different texts, so that it compares less


def told(record: LensRecord, verdicts: Table | None) -> Told | None:
    """Of a record that one lens stands for alone nothing; `verdicts`: the table of that name."""
    if verdicts is None:
        return None
    fitted = [name for name in record.headline_lenses if record.lens_kind(name).fitted]
    return Told(
        _rule(record),
        list(_agreement(verdicts.frame)),
        [name for name in fitted if name not in record.held_out],
        [name for name in fitted if not has_controls(record, name)],
        CONTROL,
        len({one.text_sha256 for one in record.held_out.values()}) > 1,
    )


def in_headline(record: LensRecord, verdicts: Table | None) -> str:
    """How the headline goes on, Markdown: the rule, what other lenses say, whether they agree."""
    if verdicts is None:
        return ""
    words = next(iter(EMERGENCE.values()))
    rows = verdicts.frame[verdicts.frame["emergence"] == words].to_dict("records")
    others = [
        f"{markdown(row['lens'])} {numbers.estimate(row['median_depth'], 'depth')}"
        for row in rows
        if row["lens"] != record.main_lens
    ]
    apart = len({_said(row) for row in rows}) > 1
    end = "; the verdict on late emergence depends on the lens" if apart else ""
    return f" {markdown(_rule(record))}; by {', by '.join(others)}{end}"


def _rule(record: LensRecord) -> str:
    main = record.main_lens
    if not record.held_out:
        return f"by the lens {main}: no fitted lens says how far it is from this model"
    if main not in record.held_out:
        return f"by the lens {main}: no fitted lens is nearer to the model on held-out text"
    own, final = (
        numbers.number(value, "bits")
        for value in (record.held_out[main].kl_bits, record.held_out[main].final_kl_bits)
    )
    return (
        f"by the lens {main}, which has the lowest held-out KL at this model ({own} bits, final "
        f"{final})"
    )


def _agreement(verdicts: pd.DataFrame) -> Iterator[str]:
    """Whether the lenses agree on the claim, a sentence for each emergence."""
    for words, rows in verdicts.groupby("emergence", sort=False):
        found = {row["lens"]: _said(row) for row in rows.to_dict("records")}
        if len(set(found.values())) == 1:
            yield f"On the answer {words} the lenses agree: {next(iter(found.values()))}"
        else:
            each = "; ".join(f"by {lens} {said}" for lens, said in found.items())
            yield f"On the answer {words} the verdict depends on the lens: {each}"


def _said(row: Mapping[Any, Any]) -> str:
    """A verdict; outside above and outside below are two."""
    answer, reason = str(row["verdict"]), str(row["reason"])
    return "it cannot be told" if answer == _UNTOLD else f"{answer} ({reason})"
