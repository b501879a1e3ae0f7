"""Names of heads: which scores are beyond what chance, other word order and no training give.

A name needs two grounds.

That there is something: on every null that the claim lists, prompt by prompt, the head scores more
than the null. The p-value is that of random signs of the paired differences over prompts, the
largest over the nulls (intersection-union test, Berger 1982); q is Benjamini & Hochberg's (1995)
over all heads and claims together, since any of them gives a name.

That it is a lot: of what the score could have beyond the highest of its nulls' means, the head has
`LEAST_EXCESS` or more. Over many prompts the least difference is significant, and no name.

A head with several names is mixed, one with none undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.stats.intervals import LEAST
from lensbench.stats.naming.claims import UNTRAINED, Claim
from lensbench.stats.resampling import Floats, bootstrap_weights, codes_of, percentiles
from lensbench.stats.significance import false_discovery, p_values, sign_flips, unit_sums

LEVEL = 0.05  # of the false discovery rate
LEAST_EXCESS = 0.4  # of what a score could have beyond its nulls
N_BOOTSTRAP = 200
MOST_SIGNS = 20_000
MIXED, UNDECIDED = "mixed", "undecided"
_MOST_HELD = 4_000_000  # numbers held at once while signs are drawn: 32 MB

Scored = Float[np.ndarray, "prompt head"]  # 0..1; NaN where the prompt says nothing of the score
Conditions = Mapping[str, Mapping[str, Scored]]  # condition -> score -> numbers


@dataclass(frozen=True)
class Tested:
    """A claim, of every head. NaN where no prompt has the score."""

    claim: Claim
    mean: Float[np.ndarray, " head"]
    null: Float[np.ndarray, " head"]  # the highest mean of a null
    null_low: Float[np.ndarray, " head"]  # its 95 % interval over prompts; NaN of too few
    null_high: Float[np.ndarray, " head"]
    null_name: Sequence[str]
    excess: Float[np.ndarray, " head"]  # 1 is all that the score can have, 0 no more than the null
    excess_drawn: Float[np.ndarray, "draw head"]  # over prompts drawn again
    p: Float[np.ndarray, " head"]
    q: Float[np.ndarray, " head"]
    n: Int[np.ndarray, " head"]  # prompts

    def holds(self, least_excess: float = LEAST_EXCESS) -> Bool[np.ndarray, " head"]:
        """Whether the head may be called so."""
        return (self.q <= LEVEL) & (self.excess >= least_excess)


@dataclass(frozen=True)
class Name:
    """What a head is called. `stability`: the share of draws of prompts with the same names."""

    names: tuple[str, ...]  # none: undecided; several: mixed
    stability: float

    @property
    def text(self) -> str:
        """The name, or that it has several or none."""
        if len(self.names) == 1:
            return self.names[0]
        return MIXED if self.names else UNDECIDED


def weigh_claims(
    claims: Sequence[Claim],
    measured: Conditions,
    clusters: Mapping[str, Sequence[object]] | None = None,
    seed: int = 0,
) -> list[Tested]:
    """Every claim about every head, against its nulls.

    A claim whose score is not measured is left out, and so is a null that is not: a claim is tested
    against those of its nulls that there are, and left out where there is none.

    Args:
        measured: numbers of what claims read and of its nulls, prompts and heads in one order;
            untrained models may have any number of heads.
        clusters: the relation of each prompt of what is read, by condition; their signs are drawn
            together. Without it each prompt stands for itself.
    """
    there = [(claim, nulls) for claim in claims if (nulls := _measured_nulls(claim, measured))]
    found = []
    for claim, nulls in there:
        own = measured[claim.reads][claim.score]
        codes = codes_of((clusters or {}).get(claim.reads), len(own))
        signs = sign_flips(int(codes.max()) + 1, n_signs(own.shape[1] * len(there)), seed)
        against = [_against(own, measured[null][claim.score], null) for null in nulls]
        p = np.max([paired_p_values(own, null, signs, codes) for null in against], axis=0)
        found.append((claim, own, nulls, against, codes, p))
    if not found:
        return []
    q = np.split(false_discovery(np.concatenate([p for *_, p in found])), len(found))
    return [
        _tested(claim, own, (nulls, against), (p, own_q), codes, seed)
        for (claim, own, nulls, against, codes, p), own_q in zip(found, q, strict=True)
    ]


def _measured_nulls(claim: Claim, measured: Conditions) -> list[str]:
    if claim.score not in measured.get(claim.reads, {}):
        return []
    return [null for null in claim.nulls if claim.score in measured.get(null, {})]


def _against(own: Scored, null: Scored, name: str) -> Scored:
    """What is compared with each head: its own score under a null, or the untrained ceiling."""
    return np.broadcast_to(ceiling(null), own.shape) if name in UNTRAINED else null


def ceiling(untrained: Scored) -> Float[np.ndarray, "prompt 1"]:
    """The untrained model's base rate: its head with the highest mean score, prompt by prompt.

    Heads of an untrained model differ by as much as weights drawn anew make them, in all prompts
    alike, so that prompts cannot tell whether a head is one of them. The best of all is what a
    trained head must beat: of N heads that no training has changed, one in N + 1 does by chance.
    """
    with np.errstate(invalid="ignore"):
        means = np.nansum(untrained, axis=0) / (~np.isnan(untrained)).sum(0)
    best = 0 if np.isnan(means).all() else int(np.nanargmax(means))
    return untrained[:, [best]]


def paired_p_values(
    own: Scored,
    null: Scored,
    signs: Float[np.ndarray, "draw unit"],
    codes: Int[np.ndarray, " prompt"],
) -> Float[np.ndarray, " head"]:
    """That `own` is not more than `null`: a mean over prompts, by the signs of the differences.

    Exact where the two can be exchanged within a prompt. Never 0: the true signs count among the
    draws. 1 where no prompt has both.
    """
    sums = unit_sums(np.nan_to_num(own - null), codes)  # a prompt that says nothing adds nothing
    columns = max(1, _MOST_HELD // len(signs))
    parts = range(0, sums.shape[1], columns)
    return np.concatenate([p_values(signs @ sums[:, i : i + columns]) for i in parts])


def n_signs(n_tests: int) -> int:
    """So many draws that one head alone can be found among `n_tests`, or `MOST_SIGNS`.

    Those tell a head from chance where one in `MOST_SIGNS` / 20 of all claims holds.
    """
    return min(int(np.ceil(2 * n_tests / LEVEL)), MOST_SIGNS)


def least_together(n_units: int, n_tests: int) -> int:
    """How many of `n_tests` claims must hold at once before any can, with so few prompts.

    Signs of k prompts (or relations) give no p-value below 1 / 2^k, and q is p times the tests over
    how many have one as small. More than `n_tests`: none ever holds.
    """
    return int(np.ceil(n_tests * 2.0**-n_units / LEVEL))


def _tested(
    claim: Claim,
    own: Scored,
    of_nulls: tuple[Sequence[str], Sequence[Scored]],
    sure: tuple[Floats, Floats],
    codes: Int[np.ndarray, " prompt"],
    seed: int,
) -> Tested:
    (nulls, against), (p, q), n_units = of_nulls, sure, int(codes.max()) + 1
    weights = bootstrap_weights(codes, N_BOOTSTRAP, seed)
    once = np.full((1, len(own)), 1 / len(own))
    means = np.stack([weighted_means(once, null)[0] for null in against])  # [null, head]
    highest = np.where(np.isnan(means), -np.inf, means).argmax(0)
    null = np.choose(highest, means)
    drawn = np.stack([weighted_means(weights, one) for one in against])  # [null, draw, head]
    of_highest = np.take_along_axis(drawn, highest[None, None], 0)[0]
    none = np.full_like(null, np.nan)
    ends = percentiles(of_highest, n_units) if n_units >= LEAST else (none, none)
    mean = weighted_means(once, own)[0]
    with np.errstate(invalid="ignore"):
        top = np.where(np.isnan(drawn), -np.inf, drawn).max(0)
    return Tested(
        claim=claim,
        mean=mean,
        null=null,
        null_low=ends[0],
        null_high=ends[1],
        null_name=[nulls[i] for i in highest],
        excess=excess(mean, null),
        excess_drawn=excess(weighted_means(weights, own), top),
        p=p,
        q=q,
        n=(~np.isnan(own)).sum(0),
    )


def excess(value: Floats, null: Floats) -> Floats:
    """How much of what is possible beyond the null: 1 all, 0 none, negative below it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(null < 1, (value - null) / (1 - null), np.nan)


def weighted_means(weights: Float[np.ndarray, "draw prompt"], values: Scored) -> Floats:
    """Weighted means over the prompts that have a number, [draw, head]."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ np.nan_to_num(values)) / (weights @ there.astype(np.float64))


def named(tested: Sequence[Tested], least_excess: float = LEAST_EXCESS) -> list[Name]:
    """The names of every head, and how stable they are over prompts drawn again.

    A draw changes how much a head has beyond its nulls, not whether it has more at all.
    """
    if not tested:
        return []
    kept, again = _names(tested, least_excess)
    same = (again == kept[:, None]).all(0).mean(0)  # [head]
    return [
        Name(tuple(one.claim.name for one, on in zip(tested, column, strict=True) if on), float(s))
        for column, s in zip(kept.T, same, strict=True)
    ]


def _names(
    tested: Sequence[Tested], least_excess: float
) -> tuple[Bool[np.ndarray, "claim head"], Bool[np.ndarray, "claim draw head"]]:
    """Which names a head has, as it is and for prompts drawn again."""
    holds = np.stack([one.holds(least_excess) for one in tested])
    drawn = np.stack([one.excess_drawn >= least_excess for one in tested])
    drawn &= np.stack([one.q <= LEVEL for one in tested])[:, None]
    return _narrowest(tested, holds), _narrowest(tested, drawn)


def _narrowest(tested: Sequence[Tested], holds: Bool[np.ndarray, "claim *draw head"]) -> np.ndarray:
    """Without the claims that a narrower one makes needless."""
    row = {one.claim.name: number for number, one in enumerate(tested)}
    kept = holds.copy()
    for number, one in enumerate(tested):
        for name in one.claim.narrower:
            if name in row:
                kept[number] &= ~holds[row[name]]
    return kept


def labels(
    tested: Sequence[Tested], least_excess: float = LEAST_EXCESS
) -> tuple[Int[np.ndarray, " head"], Int[np.ndarray, "draw head"]]:
    """The number of each head's class in `classes`, as it is and for prompts drawn again."""
    kept, again = _names(tested, least_excess)
    return _numbered(kept), _numbered(again)


def classes(tested: Sequence[Tested]) -> list[str]:
    """What a head may be called, in the order of `labels`."""
    return [*(one.claim.name for one in tested), MIXED, UNDECIDED]


def _numbered(holds: Bool[np.ndarray, "claim *draw head"]) -> Int[np.ndarray, "*draw head"]:
    n = holds.sum(0)
    return np.where(n == 1, holds.argmax(0), len(holds) + (n == 0))
