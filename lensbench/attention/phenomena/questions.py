"""Which heads find the word that belongs to another: from patterns, alignments and gold pairs.

A head's answer to a word is the word, not itself, that it looks at most (Clark et al. 2019): the
attention *to* a word is summed over its tokens, that *from* it is their mean. Punctuation and
special tokens are no words. Nor is the word that holds the sequence's first token an answer: most
heads look there whatever it says (the sink: Xiao et al. 2023), in a model that puts nothing before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.attention.scores import Pattern
from lensbench.prompts.gold import Pair
from lensbench.prompts.words import Alignment

# Where a question is put, and where its answer stands.
Direction = Literal["back", "to_head", "to_dependent"]
CAUSAL: tuple[Direction, ...] = ("back",)  # at the later word, for the earlier one: no other way
BOTH_WAYS: tuple[Direction, ...] = ("to_head", "to_dependent")


@dataclass(frozen=True)
class Question:
    """What a head is asked at word `query` of a sentence: the right word is `gold`.

    `candidates` are the words that it may answer with. `distractor` could be the right one but is
    not, where the sentence has such a word.
    """

    phenomenon: str
    direction: Direction
    query: int
    gold: int
    candidates: tuple[int, ...]
    distractor: int | None = None

    @property
    def offset(self) -> int:
        """From the query to the right word, in words; before it is negative."""
        return self.gold - self.query


def questions(
    pairs: Sequence[Pair], alignment: Alignment, directions: Sequence[Direction] = CAUSAL
) -> list[Question]:
    """What gold pairs ask, in each direction; of a causal model "back" is all that can be asked.

    There is no question about a word that is not aligned, none whose answer holds the first token,
    and none with fewer than two candidates: nothing is to be chosen there.
    """
    open_to = [i for i, tokens in enumerate(alignment.positions) if tokens and 0 not in tokens]
    found = []
    for pair in pairs:
        for direction in directions:
            query, gold = _asked(pair, direction)
            # A causal model, which alone is asked "back", sees nothing behind the query.
            seen = (i for i in open_to if (i < query if direction == "back" else i != query))
            candidates = tuple(seen)
            if alignment.positions[query] and gold in candidates and len(candidates) > 1:
                # A distractor is of the earlier word's kind: no answer to a question for the later.
                fair = gold == pair.earlier and pair.distractor in candidates
                other = pair.distractor if fair else None
                asked = (pair.phenomenon, direction, query, gold, candidates, other)
                found.append(Question(*asked))
    return found


def _asked(pair: Pair, direction: Direction) -> tuple[int, int]:
    """The word at which is asked, and the right answer."""
    if direction == "back":
        return pair.later, pair.earlier
    one = pair.dependent, pair.head
    return one if direction == "to_head" else one[::-1]


class Sentence(NamedTuple):
    """The questions of one sentence as tensors, to be put to one block after another."""

    send: Float[Tensor, "question token"]  # mean over the query's tokens
    receive: Float[Tensor, "token word"]  # sum over each word's
    others: Bool[Tensor, "question word"]  # the wrong answers
    gold: Int[Tensor, " question"]
    distractor: Int[Tensor, " question"]  # -1 where there is none


class Answers(NamedTuple):
    """What the heads of a block say to each question."""

    right: Bool[Tensor, "question head"]
    above_distractor: Float[Tensor, "question head"]  # 0 or 1; NaN where there is none


def compiled(asked: Sequence[Question], alignment: Alignment, n_tokens: int) -> Sentence:
    """The questions of a sentence of so many tokens."""
    n, n_words = len(asked), len(alignment.words)
    send, receive = torch.zeros(n, n_tokens), torch.zeros(n_tokens, n_words)
    others = torch.zeros(n, n_words, dtype=torch.bool)
    for word, tokens in enumerate(alignment.positions):
        receive[list(tokens), word] = 1
    for row, one in enumerate(asked):
        asking = list(alignment.positions[one.query])
        send[row, asking] = 1 / len(asking)
        others[row, [word for word in one.candidates if word != one.gold]] = True
    gold = torch.tensor([one.gold for one in asked], dtype=torch.long)
    distractor = [-1 if one.distractor is None else one.distractor for one in asked]
    return Sentence(send, receive, others, gold, torch.tensor(distractor, dtype=torch.long))


def answers(pattern: Pattern, sentence: Sentence) -> Answers:
    """The answers of every head of a block. A head that looks at two words alike has given none."""
    send, receive, others, gold, distractor = (part.to(pattern.device) for part in sentence)
    words: Float[Tensor, "head question word"] = send @ pattern @ receive
    rows = torch.arange(len(gold), device=pattern.device)
    own = words[:, rows, gold]
    wrong = words.masked_fill(~others, -torch.inf).amax(-1)
    above = (own > words[:, rows, distractor.clamp(min=0)]).float()
    above[:, distractor < 0] = torch.nan
    return Answers((own > wrong).T, above.T)
