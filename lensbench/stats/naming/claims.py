"""What a head may be called: the score behind each name, and the nulls that it must beat.

A null is right for a score if it leaves everything as it is but what the name claims.

random: each row's own weights, dealt out again among its keys (`attention.compared`). Right for
    every score that says *where* the weights are: all of them here. A score that does not ask
    where, as entropy, is the same under it, and so no name rests on one.
untrained: the best head of the same architecture with weights drawn anew. Right for every score: a
    window, a rotation of positions or a tied embedding can make one without any training.

Shuffled text is a null for a name that claims the order of words, as phenomena of syntax do; none
here does. A place (previous, current, first token, local) and a kind of token (duplicate,
punctuation, ...) are the same in shuffled text, and a head that looks for what followed a token
before goes on to do so: a planted induction head keeps nearly all of its score in shuffled repeats.
As a null it would refuse such names for what they say, so that what is left of a score in shuffled
text stands beside it instead.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, REPEATED = "text", "repeated"  # what is read: prompts, or random tokens several times over
UNTRAINED = frozenset({"untrained", "repeated_untrained"})  # nulls that are another model
TEXT_NULLS = ("random", "untrained")
REPEATED_NULLS = ("repeated_random", "repeated_untrained")


@dataclass(frozen=True)
class Claim:
    """A name, the score that it claims of what is read, and the nulls that the score must beat.

    `narrower`: names beside which this one says nothing more, so that a head with both has theirs.
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
    Claim("duplicate token", "duplicate_token"),
    Claim("induction", "prefix_matching", REPEATED, REPEATED_NULLS),
    Claim("punctuation", "punctuation"),
    Claim("capital", "capital"),
    Claim("digit", "digit"),
    Claim("separator", "separator", narrower=("punctuation",)),
)
# Where a head rests that finds nothing: one that does something else as well is called by that.
CLAIMS += (Claim("first token", "first_token", narrower=tuple(one.name for one in CLAIMS)),)
