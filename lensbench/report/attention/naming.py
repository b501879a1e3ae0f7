"""Names in a report: how many heads have each, and how that swings with the threshold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int

from lensbench.records.schema.attention import NULLS, READ, null_of
from lensbench.report.kit.views import Axis, Line, Lines
from lensbench.stats.estimates import counted
from lensbench.stats.naming.claims import CLAIMS, REPEATED, TEXT
from lensbench.stats.naming.measured import Measured, measured
from lensbench.stats.naming.names import (
    LEAST_EXCESS,
    Tested,
    classes,
    labels,
    least_together,
    weighted_means,
)
from lensbench.stats.naming.shares import (
    PUBLISHED,
    THIRDS,
    THRESHOLDS,
    TYPES,
    shares,
    third_of,
    types_of,
)
from lensbench.stats.resampling import bootstrap_weights, codes_of

N_DRAWS = 200
SEED = 0
_WHERE = ("all heads", *THIRDS)
Codes = Int[np.ndarray, " prompt"]
MOST_HARD = 0.02  # of all tests: so many must hold at once before it is said that they must


def has_nulls(rows: pd.DataFrame) -> bool:
    """Whether anything was read under a null, so that heads have names."""
    nulls = [null_of(condition, null) for condition in READ for null in NULLS]
    return bool(rows["condition"].isin(nulls).any())


def naming(
    rows: pd.DataFrame, names: pd.DataFrame, relation: Mapping[str, object]
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Tables of names, from the rows of `heads` and `names`; of a text the published types too."""
    scores = {claim.score for claim in CLAIMS} | {s for own in TYPES.values() for s in own}
    found = measured(rows, sorted(scores))
    tested = found.tested(relation)
    codes = _codes(found, relation)
    made = {
        "names": ("Every head's name, and what it rests on", names.drop(columns="model")),
        "classes": ("Shares of heads by name", _classes(found, tested, codes)),
        "few": ("Names that many others must stand beside", _few(found, tested, codes)),
        "thresholds": ("Names by the least excess that gives one", _by_excess(tested, codes)),
    }
    if found.prompts[TEXT]:
        made["types"] = ("The published types, by threshold", _types(found, codes))
    return made


def _codes(found: Measured, relation: Mapping[str, object]) -> Codes:
    """The relation of each prompt as a number; of those without, each prompt's own.

    Where no prompt was read but random tokens were, each sequence of those.
    """
    prompts = found.prompts[TEXT]
    if not prompts:
        return np.arange(len(found.prompts[REPEATED]))
    return codes_of(found.clusters(relation), len(prompts))


def _few(found: Measured, tested: list[Tested], codes: Codes) -> pd.DataFrame:
    """One row per what is read of which there is so little that names need many others beside them.

    `together`: how many of the `tests`, pairs of head and name, must hold at once; more than there
    are: none ever does.
    """
    tests, k, repeated = sum(len(one.p) for one in tested), _n_units(codes), found.prompts[REPEATED]
    read = {
        TEXT: (k, counted(len(codes), k)),
        REPEATED: (len(repeated), f"{len(repeated)} sequences of repeated tokens"),
    }
    rows = [
        {"read": said, "names": ", ".join(names), "together": together, "tests": tests}
        for condition, (n_units, said) in read.items()
        if (names := [one.claim.name for one in tested if one.claim.reads == condition])
        and (together := least_together(n_units, tests)) > max(1, tests * MOST_HARD)
    ]
    return pd.DataFrame(rows, columns=["read", "names", "together", "tests"])


def _n_units(codes: Codes) -> int:
    return int(codes.max(initial=-1)) + 1


def _classes(found: Measured, tested: list[Tested], codes: Codes) -> pd.DataFrame:
    """One row per class that a head has: its share of all heads, and of each third of the depth."""
    if not tested:
        return pd.DataFrame(columns=["class", *(f"{where}_share" for where in _WHERE)])
    point, drawn = labels(tested)
    third = third_of(found.heads["depth"].to_numpy(np.float64))
    columns = {}
    for number, where in enumerate(_WHERE):
        kept = np.ones(len(point), bool) if not number else third == number - 1
        if kept.any():
            key = f"{where.replace(' ', '_')}_share"
            columns[key] = shares(classes(tested), point[kept], drawn[:, kept], codes)
    rows = [
        {"class": name, **{key: own[name] for key, own in columns.items()}}
        for number, name in enumerate(classes(tested))
        if (point == number).any()
    ]
    return pd.DataFrame(rows)


def _by_excess(tested: list[Tested], codes: Codes) -> pd.DataFrame:
    """One row per least excess: shares of heads with each name, with several and with none."""
    rows = []
    for least in sorted({*THRESHOLDS, LEAST_EXCESS}):
        if tested:
            own = shares(classes(tested), *labels(tested, least), codes)
            rows.append(
                {"least_excess": least} | {f"{_column(name)}_share": e for name, e in own.items()}
            )
    return pd.DataFrame(rows)


def _types(found: Measured, codes: Codes) -> pd.DataFrame:
    """One row per threshold x type: its share of heads here, and the published one."""
    scores = found.scores[TEXT]
    weights = bootstrap_weights(codes, N_DRAWS, SEED)
    once = np.full((1, len(codes)), 1 / len(codes))
    means = {name: weighted_means(once, own)[0] for name, own in scores.items()}
    drawn = {name: weighted_means(weights, own) for name, own in scores.items()}
    rows = []
    for threshold in THRESHOLDS:
        own = shares(
            list(TYPES),
            types_of(means, threshold),
            types_of(drawn, threshold),
            codes,
        )
        rows += [
            {
                "threshold": threshold,
                "type": name,
                "share": estimate,
                "published_share": PUBLISHED[name],
            }
            for name, estimate in own.items()
        ]
    return pd.DataFrame(rows)


def _column(name: str) -> str:
    return name.replace(" ", "_")


def swings(types: pd.DataFrame) -> Lines:
    """Shares of the published types by threshold."""
    lines = [Line(str(name), list(own["share"])) for name, own in types.groupby("type", sort=False)]
    places = {float(t): f"threshold {t:g}" for t in types["threshold"].unique()}
    x = Axis("least share of attention that makes a type", percent=True)
    return Lines(x, Axis("share of heads", percent=True), places, lines, limits=(0.0, 1.0))
