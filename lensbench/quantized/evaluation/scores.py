"""What one response is worth beside its reference: pure functions of text.

The three flags are plain rules on the text, stated below; they find habits, not errors.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

from lensbench.errors import MissingExtraError
from lensbench.prompts.words import PART

MIN_WORDS = 4  # shorter pieces are repeated by chance

# Marks that frame a turn of a conversation; a response is one turn, so it has none.
_FRAME = re.compile(
    r"^\s*#{2,}\s*(instruction|input|response)\b"
    r"|^\s*(user|human|assistant|system)\s*:"
    r"|<\|[a-z_]+\|>|\[/?INST\]|<(start|end)_of_turn>",
    re.IGNORECASE | re.MULTILINE,
)
# How a piece starts that questions what went before, or begins another exercise.
_CHECK = re.compile(
    r"(let me|let's|let us|i will|i'll) (now )?(double[- ])?(check|verify)\b"
    r"|(double[- ]|self[- ])?(check|verification|verify|checking) ?:"
    r"|wait\b|is (this|that|it|my answer) (right|correct)\b"
    r"|(question|exercise|problem|task|instruction|input|prompt|q) ?\d* ?:",
    re.IGNORECASE,
)
_PIECE_ENDS = re.compile(r"\n+|(?<=[.!?])\s+")  # of lines and of sentences
_MARKUP = "#*>-_` \t"  # before the first word of a line
_HEADING = re.compile(r"#{2,}\s*(question|exercise|problem|task|instruction|input|prompt)\b", re.I)


def scores(prompt: str, reference: str, response: str, finish_reason: str) -> dict[str, Any]:
    """Every score of one response, under the names of the records.

    Raises MissingExtraError without sacrebleu or rouge-score.
    """
    return {
        **bleu(response, reference),
        **rouge(response, reference),
        "format_ok": format_ok(prompt, response, finish_reason),
        "self_check": self_check(response),
        "duplicated": duplicated(response),
    }


def bleu(response: str, reference: str) -> dict[str, Any]:
    """Sentence BLEU (0..100), and the ten counts that corpus BLEU is made of by adding.

    Papineni et al. 2002, by sacrebleu: tokenisation 13a, exponential smoothing, orders up to the
    longest n-gram there is. The counts are the lengths of response and reference in words, then
    matching n-grams of orders 1 to 4, then the response's n-grams of orders 1 to 4.
    """
    found = _bleu().sentence_score(response, [reference])
    statistics = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    return {"bleu": float(found.score), "bleu_statistics": [int(n) for n in statistics]}


def rouge(response: str, reference: str) -> dict[str, float | None]:
    """F1 (0..1) of shared words, shared word pairs and the longest common subsequence.

    Lin 2004, by rouge-score, without stemming. Words are runs of Latin letters and digits. None
    where the reference has no word, or for word pairs fewer than two.
    """
    scorer = _rouge()
    found = scorer.score(reference, response)
    n_words = len(_rouge_words(reference))
    needed = {"rouge1": 1, "rouge2": 2, "rougeL": 1}
    return {
        name.lower(): float(found[name].fmeasure) if n_words >= least else None
        for name, least in needed.items()
    }


def format_ok(prompt: str, response: str, finish_reason: str) -> bool:
    """Whether the response is one turn: there is one, the model ended it, and it frames no other.

    Not kept when it is empty, was cut at the token limit, holds a mark of a turn (a heading
    "### Instruction", "### Input" or "### Response", a line that begins "User:" or "Assistant:",
    "<|...|>", "[INST]", "<start_of_turn>"), or begins with the prompt (of four words or more).
    """
    asked, said = _words(prompt), _words(response)
    echo = len(asked) >= MIN_WORDS and said[: len(asked)] == asked
    framed = _FRAME.search(response) is not None
    return bool(response.strip()) and finish_reason == "stop" and not framed and not echo


def self_check(response: str) -> bool:
    """Whether the response goes on, after its first sentence, to check itself or to a new exercise.

    So it is when a later line or sentence begins with "Let me check", "Check:", "Verification:",
    "Wait", "Is this correct", "Question:", "Exercise 2:", "Task:" and their like, or is a heading
    such as "### Question".
    """
    later = _pieces(response)[1:]
    return any(_CHECK.match(p.lstrip(_MARKUP)) or _HEADING.match(p) for p in later)


def duplicated(response: str) -> bool:
    """Whether a line or sentence of at least four words occurs twice, case and marks aside."""
    pieces = [tuple(_words(piece)) for piece in _pieces(response)]
    times = Counter(words for words in pieces if len(words) >= MIN_WORDS)
    return any(n > 1 for n in times.values())


def _pieces(text: str) -> list[str]:
    """Lines, and the sentences within them, without the empty ones."""
    return [piece.strip() for piece in _PIECE_ENDS.split(text) if piece.strip()]


def _words(text: str) -> list[str]:
    found: list[str] = PART.findall(unicodedata.normalize("NFKC", text).casefold())
    return found


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "quant") from error
    return BLEU(effective_order=True)


@cache
def _rouge() -> Any:
    """The scorer with a tokenizer of ours: it would announce its own on standard error."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError as error:
        raise MissingExtraError("rouge-score", "quant") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=DefaultTokenizer(False))


def _rouge_words(text: str) -> list[str]:
    """The words that rouge-score counts."""
    from rouge_score.tokenize import tokenize

    return list(tokenize(text, None))
