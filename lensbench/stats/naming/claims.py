"""What a head may be called: the score behind each name, and the nulls that it must beat.

A null is right for a score if it leaves everything as it is but what the name claims.

random: each row's own weights, dealt out again among its keys (`attention.compared`). Right for
    every score that says *where* the weights are: all of them here. A score that does not ask
    where, as entropy, is the same under it, and so no name rests on one.
untrained: the best head of the same architecture with weights drawn anew. Right for every score: a
    window, a rotation of positions or a tied embedding can make one without any training.
shuffled: the same tokens in random order. Right for induction alone, which claims that *order*
    comes back: shuffled repeats hold the same tokens as often. Names that claim a place (previous,
    current, first token, local) or a kind of token (duplicate, punctuation, ...) hold of shuffled
    text too, so that it would refuse them for what they say.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, REPEATED = "text", "repeated"  # what is read: prompts, or random tokens several times over
UNTRAINED = frozenset({"untrained", "repeated_untrained"})  # nulls that are another model
TEXT_NULLS = ("random", "untrained")
REPEATED_NULLS = ("repeated_random", "repeated_shuffled", "repeated_untrained")


@dataclass(frozen=True)
class Claim:
    """A name, the score that it claims of what is read, and the nulls that the score must beat.

    `narrower`: names that say more of the same weights, so that this one adds nothing to them.
    """

    name: str
    score: str
    reads: str = TEXT
    nulls: tuple[str, ...] = TEXT_NULLS
    narrower: tuple[str, ...] = ()


# To add a name: a line here, of a score that there is.
CLAIMS: tuple[Claim, ...] = (
    Claim("current token", "current_token"),
    Claim("previous token", "previous_token"),
    Claim("local", "local_window", narrower=("previous token",)),
    Claim("first token", "first_token"),
    Claim("duplicate token", "duplicate_token"),
    Claim("induction", "induction", REPEATED, REPEATED_NULLS),
    Claim("punctuation", "punctuation"),
    Claim("capital", "capital"),
    Claim("digit", "digit"),
    Claim("separator", "separator", narrower=("punctuation", "first token")),
)
