"""Tables of an attention run: what each head looks at, and what follows from that."""

from __future__ import annotations

import pyarrow as pa

from lensbench.records.schema.declare import (
    F32,
    F64,
    I16,
    I32,
    TEXT,
    Column,
    Kind,
    Table,
)
from lensbench.records.schema.every import PROBLEMS
from lensbench.records.schema.lens import PROMPTS
from lensbench.records.schema.phenomena import (
    ANSWERS,
    DEPTHS,
    PHENOMENA,
    PHENOMENON_ABLATION,
    WORD_LOSSES,
)

# What a head's score is a mean of, over queries: attention/scores.py says how. To add one: a
# function there, and a line here.
SCORES: dict[str, str] = {
    "current_token": "attention to the token itself",
    "previous_token": "attention to the token before",
    "local_window": "attention to the 5 tokens before, the previous one among them",
    "first_token": "attention to the first token, the usual sink",
    "duplicate_token": "attention to earlier tokens that are the same",
    "induction": "attention to the token after the last earlier one that is the same",
    "prefix_matching": "attention to the tokens after all earlier ones that are the same",
    "punctuation": "attention to earlier punctuation",
    "capital": "attention to earlier tokens that begin with a capital",
    "digit": "attention to earlier tokens with a digit",
    "separator": "attention to earlier ends of sentences and lines, and special tokens",
    "mean_distance": "how far back, as a share of how far there is",
    "entropy_share": "entropy, as a share of that of even attention to all there is",
}
READ: dict[str, str] = {
    "text": "the prompts as they are",
    "repeated": "random tokens, the same ones several times over",
}
# Of what is read, what chance, other word order and no training give: null -> meaning.
NULLS: dict[str, str] = {
    "random": "each query's weights dealt out again among its keys: random attention of equal "
    "entropy",
    "shuffled": "the same tokens in random order, but for the first",
    "untrained": "the same architecture with weights drawn anew",
}


def null_of(condition: str, null: str) -> str:
    """The name of a condition's null."""
    return null if condition == "text" else f"{condition}_{null}"


CONDITIONS: dict[str, str] = READ | {
    null_of(condition, null): f"null of {condition}: {meaning}"
    for condition in READ
    for null, meaning in NULLS.items()
}
WEIGHTINGS: dict[str, str] = {
    "plain": "the pattern itself",
    "moved": "each weight times the length of what it moves, rows summing to 1 again",
}

_MODEL = Column("model", TEXT, "the model's name")
_BLOCK = Column("block", I16, "block of the head, from 0", "blocks")
_HEAD = Column("head", I16, "head within its block, from 0", "heads")
_NO_KEY = "no token has such a token to look at, or (`moved`) the head moves nothing"
_NO_INTERVAL = "too few for an interval"
_NO_SCORE = "no prompt has the score"

HEADS = Table(
    "heads",
    "one row per condition x prompt x weighting x block x head: its scores",
    (
        _MODEL,
        Column(
            "condition", TEXT, f"what was read: {'; '.join(map(': '.join, CONDITIONS.items()))}"
        ),
        Column("prompt_id", TEXT, "the prompt; of a condition that makes its own, their number"),
        Column("weighting", TEXT, f"{'; '.join(map(': '.join, WEIGHTINGS.items()))}"),
        _BLOCK,
        Column("depth", F64, "(block + 0.5) / n_layers: attention is half a block", "0..1"),
        _HEAD,
        Column("n_tokens", I32, "tokens of the prompt", "tokens"),
        *(Column(name, F32, meaning, "0..1", _NO_KEY) for name, meaning in SCORES.items()),
    ),
)
PATTERNS = Table(
    "patterns",
    "one row per kept prompt x block x head: its whole pattern",
    (
        _MODEL,
        Column("prompt_id", TEXT, "the prompt; its tokens are in `prompts`"),
        _BLOCK,
        _HEAD,
        Column(
            "weights",
            pa.list_(F32),
            "attention of each query to itself and all before it, query after query: n (n + 1) / "
            "2; of a text encoder to all tokens: n²",
            "0..1",
        ),
        Column(
            "moved",
            pa.list_(F32),
            "length of what each token's value writes through this head, ||v W_O||",
            "as the residual stream",
            "the weighting `moved` was not asked for",
        ),
    ),
)
NAMES = Table(
    "names",
    "one row per block x head: what it is called, and why; none where no null was read",
    (
        _MODEL,
        _BLOCK,
        _HEAD,
        Column("name", TEXT, "its class; `mixed` of several, `undecided` of none"),
        Column("names", TEXT, "all of its names, joined by ` + `; empty if it has none"),
        Column(
            "claim",
            TEXT,
            "which name the columns below are about: of its names, or of all if it has none, that "
            "with the largest excess",
        ),
        Column("score", TEXT, "the score behind it"),
        Column("value", F64, "that score, mean over prompts", "0..1", _NO_SCORE),
        Column("null", TEXT, "the condition of its highest null", "", _NO_SCORE),
        Column("null_value", F64, "the score under it, mean over prompts", "0..1", _NO_SCORE),
        Column("null_low", F64, "95 % interval of that", "0..1", _NO_INTERVAL),
        Column("null_high", F64, "its upper end", "0..1", _NO_INTERVAL),
        Column(
            "shuffled_value",
            F64,
            "the score where the same tokens stand in random order, mean over prompts",
            "0..1",
            _NO_SCORE,
        ),
        Column("excess", F64, "(value - null) / (1 - null)", "to 1", _NO_SCORE),
        Column("q_value", F64, "false discovery rate at which it is more than its nulls", "0..1"),
        Column("stability", F64, "share of draws of prompts that give the same names", "0..1"),
        Column("n_prompts", I32, "prompts that have the score", "prompts"),
    ),
)
ABLATION = Table(
    "ablation",
    "one row per prompt x block x head: what the model loses with the head's mean over all prompts "
    "in its place",
    (
        _MODEL,
        Column("prompt_id", TEXT, "the prompt, of the record's first width"),
        _BLOCK,
        _HEAD,
        Column("loss_change_nats", F64, "mean over the prompt's tokens", "nats per token"),
        Column(
            "answer_change_nats",
            F64,
            "by how much less likely the answer's first token is",
            "nats",
            "the prompt has no answer",
        ),
        Column(
            "answer_effect",
            F64,
            "what the head adds by itself to that token's logit, above the mean logit",
            "logits",
            "the prompt has no answer, or the heads have no weights to read",
        ),
        Column("n_predicted", I32, "tokens that were predicted: all but the first", "tokens"),
    ),
)
REDUNDANCY = Table(
    "redundancy",
    "one row per prompt x number of heads: what is lost without the least needed heads",
    (
        _MODEL,
        Column("prompt_id", TEXT, "the prompt; the order of heads was chosen on others"),
        Column("n_heads", I32, "how many heads are replaced by their means", "heads"),
        Column("last_block", I16, "block of the last of them", "blocks"),
        Column("last_head", I16, "the last of them", "heads"),
        Column("loss_change_nats", F64, "mean over the prompt's tokens", "nats per token"),
    ),
)
_PARTNER = "it is in the first block"
_OVERFLOW = "something in these weights is NaN or Inf"
_NO_RATIO = f"{_PARTNER}, or {_OVERFLOW}"
CIRCUITS = Table(
    "circuits",
    "one row per block x head: what its weights do, norms folded in; none where they are packed or "
    "have an adapter beside them",
    (
        _MODEL,
        _BLOCK,
        _HEAD,
        Column(
            "copying",
            F64,
            "eigenvalues of W_E W_OV W_U: sum over sum of absolutes",
            "-1..1",
            _OVERFLOW,
        ),
        Column(
            "own_rank",
            F64,
            "share of tokens it raises less than the one looked at",
            "0..1",
            _OVERFLOW,
        ),
        *(
            column
            for mode, word in (("q", "queries"), ("k", "keys"), ("v", "values"))
            for column in (
                Column(f"{mode}_block", I16, f"of the head its {word} read most", "", _NO_RATIO),
                Column(f"{mode}_head", I16, "that head", "", _NO_RATIO),
                Column(f"{mode}_ratio", F64, "composition with it", "0..1", _NO_RATIO),
            )
        ),
        Column(
            "random_ratio_high",
            F64,
            "the most that any head of the blocks before would have if heads were drawn at random, "
            "in 95 % of draws",
            "0..1",
            _PARTNER,
        ),
    ),
)
SIMILARITY = Table(
    "head_similarity",
    "one row per pair of heads: how unlike their patterns are",
    (
        _MODEL,
        Column("block_a", I16, "block of the first head", "blocks"),
        Column("head_a", I16, "the first head", "heads"),
        Column("block_b", I16, "block of the second head", "blocks"),
        Column("head_b", I16, "the second head", "heads"),
        Column("js_bits", F64, "Jensen-Shannon, mean over queries and prompts", "bits, 0..1"),
        Column("n_prompts", I32, "prompts", "prompts"),
    ),
)

KINDS = (
    Kind(
        "attention",
        "`lensbench attention`, `lensbench run` of an attention study",
        (
            PROMPTS,
            HEADS,
            NAMES,
            PHENOMENA,
            ABLATION,
            REDUNDANCY,
            CIRCUITS,
            SIMILARITY,
            PROBLEMS,
        ),
        (PATTERNS, ANSWERS, DEPTHS, WORD_LOSSES, PHENOMENON_ABLATION),
    ),
)
