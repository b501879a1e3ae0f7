"""Prompts without an answer: what can be said of a reading that nobody can be right about."""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.report.lens.curves import first_or_none
from lensbench.report.lens.groups import why_nothing
from lensbench.report.lens.headlines import reached
from lensbench.stats.estimates import clustered_estimate, n_relations


def summary_table(record: LensRecord) -> pd.DataFrame:
    """How many there are, how sure the model is, and from where the lens is near its output."""
    prompts = record.unanswered
    if prompts.empty:
        return pd.DataFrame()
    rows = record.milestones_of(record.main_lens, prompts.index)
    last = record.by_layer("entropy_bits", prompts.index, record.main_lens)
    entropy = last.get(record.n_layers, pd.Series(dtype=float))
    near = reached(rows, "kl_1bit")
    nothing = why_nothing(near if near.isna().all() else rows[:0], "no prompt reaches it")
    row = {
        "n_prompts": len(prompts),
        "n_relations": n_relations(prompts["relation"]),
        "last_layer_entropy_bits": clustered_estimate(
            entropy,
            prompts["relation"].reindex(entropy.index),
            nothing=why_nothing(prompts, "no prompts"),
        ),
        "kl_1bit_depth": clustered_estimate(
            rows["kl_1bit_depth"], rows["relation"], "median", nothing
        ),
        "kl_1bit_reached_share": clustered_estimate(
            near, rows["relation"], "share", why_nothing(rows, "no prompts")
        ),
    }
    return pd.DataFrame([row])


def says_table(record: LensRecord) -> pd.DataFrame:
    """The lens' top token after the last layer, prompt by prompt, the surest first."""
    prompts = record.unanswered
    columns = ["prompt_id", "prompt", "token", "prob", "entropy_bits"]
    last = record.at_output(["top_tokens", "top_probs", "entropy_bits"])
    last = last[last["prompt_id"].isin(prompts.index)].set_index("prompt_id").sort_index()
    frame = pd.DataFrame(
        {
            "prompt": prompts["prompt"].reindex(last.index),
            "token": last["top_tokens"].map(first_or_none),
            "prob": last["top_probs"].map(first_or_none).astype(float),
            "entropy_bits": last["entropy_bits"].astype(float),
        }
    ).reset_index()
    known = frame[frame["token"].notna()]
    return known.sort_values(["prob", "prompt_id"], ascending=[False, True], ignore_index=True)[
        columns
    ]
