"""Splitting pairs into train, eval and test so that nothing leaks and nothing moves later."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lensbench.errors import InputProblems, Problem
from lensbench.files import write_text
from lensbench.prompts.rows import json_lines
from lensbench.quantized.data.near import NEAR, near_pairs, normalise, pair_text
from lensbench.quantized.data.pairs import Pair, read_pairs

_log = logging.getLogger(__name__)

# A part that stays empty with a smaller probability than this is empty for a reason.
_CHANCE = 1e-3


def split(
    pairs: Sequence[Pair], shares: Mapping[str, float], seed: int = 0, near: float = NEAR
) -> dict[str, list[Pair]]:
    """Pairs by the name of their split, each in the order given.

    Rows of one group, with the same question, or nearly the same stay together. Where such a bunch
    goes depends on `seed` and on its first row's group (or id, without a group) alone. So rows that
    are added at the end never move earlier ones, unless one ties two bunches together.

    Of so few bunches that a split stays empty by chance, it gets one of the smallest, of these the
    one that is nearest to it; a warning says so, for rows that are added later may change that.

    Raises InputProblems when shares are negative or do not sum to 1, or when a split that should
    have rows gets none.
    """
    _require_shares(shares)
    own = bunches(pairs, near)
    keys: dict[int, str] = {}
    for bunch, pair in zip(own, pairs, strict=True):
        keys.setdefault(bunch, f"id {pair.id}" if pair.group is None else f"group {pair.group}")
    points = {bunch: _point(key, seed) for bunch, key in keys.items()}
    places = {bunch: _place(point, shares) for bunch, point in points.items()}
    for name, share in shares.items():
        if share > 0 and name not in places.values() and (1 - share) ** len(keys) > _CHANCE:
            _fill(name, places, points, keys, shares, Counter(own))
    result: dict[str, list[Pair]] = {name: [] for name in shares}
    for bunch, pair in zip(own, pairs, strict=True):
        result[places[bunch]].append(pair)
    _require_rows(result, shares, n_bunches=len(keys))
    return result


def split_file(
    path: Path, out: Path, shares: Mapping[str, float], seed: int = 0, near: float = NEAR
) -> tuple[dict[Path, int], list[Problem]]:
    """Split a .jsonl or a .json array into `out/<name>.jsonl`, its objects as they are.

    Returns how many pairs each file has, and what is wrong with rows that are in none. Raises
    InputProblems as `split` does.
    """
    found = read_pairs(path)
    lines = json_lines(path).split("\n")
    counts = {}
    for name, part in split(found.pairs, shares, seed, near).items():
        rows = [lines[pair.row - 1].strip() + "\n" for pair in part if pair.row is not None]
        write_text(out / f"{name}.jsonl", "".join(rows))
        counts[out / f"{name}.jsonl"] = len(part)
    return counts, found.problems


def bunches(pairs: Sequence[Pair], near: float) -> list[int]:
    """A number for each pair; those of one group, with the same question or nearly the same text
    have the same one."""
    texts = [pair_text(pair.question, pair.response) for pair in pairs]
    first: dict[Hashable, int] = {}
    ties = [
        (first.setdefault(key, i), i)
        for i, pair in enumerate(pairs)
        for key in (("question", normalise(pair.question)), ("group", pair.group))
        if key != ("group", None)
    ]
    unique = list({text: i for i, text in reversed(list(enumerate(texts)))}.values())
    alike = near_pairs([texts[i] for i in unique], near)
    ties += [(unique[i], unique[j]) for i, j, _ in alike]
    ends = np.array(ties).T
    graph = coo_array((np.ones(len(ties)), ends), shape=(len(pairs), len(pairs)))
    return list(map(int, connected_components(graph, directed=False)[1]))


def _point(key: str, seed: int) -> float:
    """A key's hash as a number in 0..1."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _place(point: float, shares: Mapping[str, float]) -> str:
    """The split at a point, the shares being laid along 0..1."""
    for name, (_, upper) in _spans(shares).items():
        if point < upper:
            return name
    return [name for name, share in shares.items() if share > 0][-1]  # the sum rounds below 1


def _spans(shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Where each share begins and ends."""
    uppers = list(accumulate(shares.values()))
    return dict(zip(shares, zip([0.0, *uppers[:-1]], uppers, strict=True), strict=True))


def _fill(
    name: str,
    places: dict[int, str],
    points: Mapping[int, float],
    keys: Mapping[int, str],
    shares: Mapping[str, float],
    n_rows: Mapping[int, int],
) -> None:
    """Move a bunch of a split that has more than one into an empty split, if any has.

    The smallest goes, for a split that stayed empty is one of a small share; then the nearest.
    """
    counts = Counter(places.values())
    lower, upper = _spans(shares)[name]
    spare = [bunch for bunch, place in places.items() if counts[place] > 1]
    if not spare:
        return
    moved = min(
        spare, key=lambda bunch: (n_rows[bunch], max(lower - points[bunch], points[bunch] - upper))
    )
    _log.warning(
        "of %s bunches of rows none fell into %s, so it gets one of %s (%s); with more rows it may "
        "be another",
        len(keys),
        name,
        places[moved],
        keys[moved],
    )
    places[moved] = name


def _require_shares(shares: Mapping[str, float]) -> None:
    given = " + ".join(f"{name} {share:g}" for name, share in shares.items())
    if not all(0 <= share <= 1 for share in shares.values()):
        raise InputProblems([Problem(given, "a share is not in 0..1", "Give shares like 0.8.")])
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        what = f"the shares sum to {sum(shares.values()):g}"
        raise InputProblems([Problem(given, what, "Make them sum to 1.")])


def _require_rows(
    result: Mapping[str, Sequence[Pair]], shares: Mapping[str, float], n_bunches: int
) -> None:
    problems = [
        Problem(
            name,
            f"none of the {n_bunches} bunches of rows that stay together falls into it",
            "Give it a larger share, another --seed, or more rows.",
        )
        for name, share in shares.items()
        if share > 0 and not result[name]
    ]
    if problems:
        raise InputProblems(problems)
