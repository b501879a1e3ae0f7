"""Pairs of words that people have rated, and how a model's cosines are ordered beside them.

WordSim-353 (Finkelstein et al. 2002) asks how related two words are, SimLex-999 (Hill et al. 2015)
how alike: "car" and "road" are related and not alike. Both are read in place, from the package
gensim: their words and ratings stand in no record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lensbench.embeddings.geometry import Interval
from lensbench.errors import InputProblems, Problem
from lensbench.files import package_folder, sha256_of
from lensbench.prompts.rows import text_of

PACKAGED = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}
LEAST = 10  # pairs of an interval
N_DRAWS = 999
_ENDS = (0.025, 0.975)
_WRITE = "Write two words and a number with tabs between, a line each; # begins a comment."


class RatedPair(NamedTuple):
    """Two words, and the mean of what people said."""

    a: str
    b: str
    rating: float


@dataclass(frozen=True)
class RatedSet:
    """The pairs of a file."""

    name: str
    sha256: str
    pairs: list[RatedPair]

    @property
    def words(self) -> list[str]:
        """Every word once."""
        return list(dict.fromkeys(word for a, b, _ in self.pairs for word in (a, b)))

    @property
    def n_same(self) -> int:
        """Pairs of a word with itself: their cosine is 1 whatever the model."""
        return sum(a == b for a, b, _ in self.pairs)

    @property
    def n_repeated(self) -> int:
        """Pairs that stand there a second time, either way round."""
        return sum(n - 1 for n in Counter(frozenset(p[:2]) for p in self.pairs).values())


def load_rated(source: str) -> RatedSet:
    """A set by its name in gensim, or a file of two words and a rating, with tabs between.

    Raises MissingExtraError without gensim, InputProblems with every line that is not like that.
    """
    path = _in_gensim(source) if source in PACKAGED else Path(source)
    name = source if source in PACKAGED else path.name
    if not path.is_file():
        what, known = "there is no such file", " or ".join(PACKAGED)
        raise InputProblems([Problem(source, what, f"Give a file, or {known}.")])
    pairs: list[RatedPair] = []
    problems: list[Problem] = []
    for number, line in enumerate(text_of(path, name).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            pairs.append(_pair(line))
        except ValueError as error:
            problems.append(Problem(f"{name}, row {number}", str(error), _WRITE))
    if not problems and len(pairs) < 2:
        problems.append(Problem(name, f"it has {len(pairs)} pairs: no order", _WRITE))
    if problems:
        raise InputProblems(problems)
    return RatedSet(name, sha256_of(path), pairs)


def _in_gensim(source: str) -> Path:
    """Where the package has it; gensim itself is not imported."""
    return package_folder("gensim", "embed") / "test" / "test_data" / PACKAGED[source]


def _pair(line: str) -> RatedPair:
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) != 3 or not all(cells):
        raise ValueError(f"it has {len(cells)} cells, or empty ones")
    try:
        rating = float(cells[2])
    except ValueError:
        raise ValueError(f"{cells[2]!r} is no number") from None
    if not math.isfinite(rating):
        raise ValueError(f"the rating is {cells[2]}")
    return RatedPair(cells[0], cells[1], rating)


def rank_correlations(
    given: Sequence[Float[np.ndarray, " pair"]], ratings: Float[np.ndarray, " pair"], seed: int = 0
) -> tuple[list[Interval], list[Interval]]:
    """Spearman's correlation of each of some cosines with the ratings, -1..1.

    And by how much each is above the first. 95 % intervals by the percentile bootstrap over pairs,
    of the same draws for all; NaN of fewer than `LEAST` pairs, or where all values are equal.
    """
    values = _spearman(np.stack(given), ratings)
    gains = values - values[0]
    n = len(ratings)
    if n < LEAST:
        ends = np.full((2, 2, len(given)), np.nan)
    else:
        rng = np.random.default_rng(seed)
        drawn = [
            _spearman(np.stack(given)[:, rows], ratings[rows])
            for rows in rng.integers(0, n, (N_DRAWS, n))
        ]
        draws = np.stack(drawn)
        ends = np.stack([np.quantile(one, _ENDS, axis=0) for one in (draws, draws - draws[:, :1])])
    return (
        [Interval(*map(float, row)) for row in zip(values, *ends[0], strict=True)],
        [Interval(*map(float, row)) for row in zip(gains, *ends[1], strict=True)],
    )


def _spearman(
    given: Float[np.ndarray, "one pair"], ratings: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, " one"]:
    """Pearson's correlation of ranks, equal values sharing theirs."""
    ranks = stats.rankdata(np.vstack([given, ratings]), axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((centred[:-1] @ centred[-1]) / (length[:-1] * length[-1]))
