"""What each head does, as numbers of its pattern. Pure: a pattern and facts in, a score a head out.

Two kinds of score, each a mean over the queries that have a choice: the third token and those after
it, for the first two have nothing but themselves and the first. As the first token is the sink of
most heads (Xiao et al. 2023), attention to it counts as that and as nothing else: it is neither the
previous token nor a capital. A query that has no such token to look at does not count; where none
has, the score is NaN.

- Of keys: how much a query gives to certain tokens, or to each token times what it counts for.
- Of rows: of a query's whole distribution.

Patterns weighted by what they move are scored in the same way, their rows made to sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.attention.facts import Facts

Pattern = Float[Tensor, "head query key"]  # nothing looks at what is not allowed
Scores = Float[Tensor, " head"]
Counted = Bool[Tensor, "query key"] | Float[Tensor, "query key"]  # what a query's key counts, 0..1

FIRST_QUERY = 2  # the first that can tell the first token, the previous one and itself apart
LEAST_TOKENS = FIRST_QUERY + 1
WINDOW = 5  # tokens of the local window


def current_token(facts: Facts) -> Counted:
    """The token itself."""
    return torch.eye(facts.n_tokens, dtype=torch.bool)


def previous_token(facts: Facts) -> Counted:
    """The token before (previous-token heads: Elhage et al. 2021)."""
    return _distance(facts) == 1


def local_window(facts: Facts) -> Counted:
    """The `WINDOW` tokens before, the previous one among them."""
    distance = _distance(facts)
    return (distance >= 1) & (distance <= WINDOW)


def first_token(facts: Facts) -> Counted:
    """The first token (attention sinks: Xiao et al. 2023)."""
    return (torch.arange(facts.n_tokens) == 0).expand(facts.n_tokens, -1)


def duplicate_token(facts: Facts) -> Counted:
    """Earlier tokens that are the same (duplicate-token heads: Wang et al. 2022)."""
    return _same_before(facts)


def induction(facts: Facts) -> Counted:
    """The token after the last earlier one that is the same (Olsson et al. 2022)."""
    same = _same_before(facts)
    last = same & (same.flip(-1).cumsum(-1).flip(-1) == 1)
    return _after(last)


def prefix_matching(facts: Facts) -> Counted:
    """The tokens after all earlier ones that are the same (Olsson et al. 2022, head evaluators)."""
    return _after(_same_before(facts))


def of_kind(kind: str) -> Callable[[Facts], Counted]:
    """Earlier tokens of a kind (punctuation, separators: Clark et al. 2019)."""

    def counted(facts: Facts) -> Counted:
        return facts.kinds[kind].expand(facts.n_tokens, -1) & (_distance(facts) > 0)

    return counted


def mean_distance(pattern: Pattern, facts: Facts) -> Float[Tensor, "head query"]:
    """How far back a query looks, as a share of how far back it may look at most.

    A mean over the tokens that it looks at: what an attention sink takes is at no distance. NaN of
    a query that may look at itself alone.
    """
    distance = _distance(facts).where(facts.allowed, 0)
    share = (distance / distance.amax(-1, keepdim=True)).to(pattern)
    return torch.einsum("hqk,qk->hq", pattern, share) / pattern.sum(-1)


def entropy_share(pattern: Pattern, facts: Facts) -> Float[Tensor, "head query"]:
    """Entropy of a query's attention over that of even attention to all it may look at."""
    rows = pattern / pattern.sum(-1, keepdim=True)  # what an attention sink takes is no token's
    return torch.special.entr(rows).sum(-1) / facts.allowed.sum(-1).to(rows).log()


# To add a score: a function like these, a line here and one in records/schema/attention.py.
OF_KEYS: dict[str, Callable[[Facts], Counted]] = {
    "current_token": current_token,
    "previous_token": previous_token,
    "local_window": local_window,
    "first_token": first_token,
    "duplicate_token": duplicate_token,
    "induction": induction,
    "prefix_matching": prefix_matching,
    "punctuation": of_kind("punctuation"),
    "capital": of_kind("capital"),
    "digit": of_kind("digit"),
    "separator": of_kind("separator"),
}
OF_ROWS: dict[str, Callable[[Pattern, Facts], Float[Tensor, "head query"]]] = {
    "mean_distance": mean_distance,
    "entropy_share": entropy_share,
}


class Scorer:
    """All scores of one prompt's patterns; what its keys count for is made once."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        each = {name: self._counted(name, make(facts)) for name, make in OF_KEYS.items()}
        n = [float((counted > 0).any(-1).sum()) for counted in each.values()]
        self._n = torch.tensor(n)
        self._counted_keys = torch.stack(list(each.values())).flatten(1)  # [score, query * key]

    def _counted(self, name: str, counted: Counted) -> Float[Tensor, "query key"]:
        kept = counted * self.facts.allowed
        kept[:FIRST_QUERY] = 0
        if name != "first_token":
            kept[:, 0] = 0
        return kept.float()

    def __call__(self, pattern: Pattern) -> dict[str, Scores]:
        """Every score of every head; NaN where nothing can be measured."""
        of_keys = (pattern.flatten(1) @ self._counted_keys.to(pattern).T).T.cpu()
        found = dict(zip(OF_KEYS, of_keys / self._n[:, None], strict=True))  # 0 / 0 is NaN
        for name, of_rows in OF_ROWS.items():
            found[name] = of_rows(pattern, self.facts)[:, FIRST_QUERY:].mean(-1).cpu()
        return found


def head_scores(pattern: Pattern, facts: Facts) -> dict[str, Scores]:
    """Every score of every head of a pattern, by its name."""
    return Scorer(facts)(pattern)


def _distance(facts: Facts) -> Float[Tensor, "query key"]:
    """How far a key is before its query; negative behind it."""
    place = torch.arange(facts.n_tokens)
    return place[:, None] - place


def _same_before(facts: Facts) -> Bool[Tensor, "query key"]:
    return (facts.ids[:, None] == facts.ids) & (_distance(facts) > 0)


def _after(targets: Bool[Tensor, "query key"]) -> Bool[Tensor, "query key"]:
    """The tokens after some, where those are before the query."""
    return targets.roll(1, -1).tril(-1)
