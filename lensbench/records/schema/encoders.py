"""Tables of a text encoder's attention: what its heads, which look both ways, attend to."""

from __future__ import annotations

from lensbench.records.schema.attention import PATTERNS, WEIGHTINGS
from lensbench.records.schema.declare import F32, F64, I16, I32, TEXT, Column, Kind, Table
from lensbench.records.schema.every import PROBLEMS
from lensbench.records.schema.lens import PROMPTS
from lensbench.records.schema.phenomena import ANSWERS, DEPTHS, PHENOMENA

# What a head's score is a mean of, over queries: attention/encoders/scores.py says how.
ENCODER_SCORES: dict[str, str] = {
    "cls": "attention to the first token of all, such as [CLS]",
    "sep": "attention to the last token of all, such as [SEP]",
    "current_token": "attention to the token itself",
    "previous_token": "attention to the token before",
    "next_token": "attention to the token after",
    "separator": "attention to the last token of all, full stops and commas",
    "entropy_share": "entropy, as a share of that of even attention to all tokens",
}
ENCODER_READ: dict[str, str] = {
    "text": "the texts, read by the encoder",
    "untrained": "the same texts, read by the same architecture with weights drawn anew",
}
_NO_KEY = "no token has such a token to look at, or (`moved`) the head moves nothing"

ENCODER_HEADS = Table(
    "encoder_heads",
    "one row per condition x text x weighting x block x head of a text encoder: its scores",
    (
        Column("model", TEXT, "the model's name"),
        Column(
            "condition", TEXT, f"who read what: {'; '.join(map(': '.join, ENCODER_READ.items()))}"
        ),
        Column("prompt_id", TEXT, "the text"),
        Column("weighting", TEXT, f"{'; '.join(map(': '.join, WEIGHTINGS.items()))}"),
        Column("block", I16, "block of the head, from 0", "blocks"),
        Column("depth", F64, "(block + 0.5) / n_layers: attention is half a block", "0..1"),
        Column("head", I16, "head within its block, from 0", "heads"),
        Column("n_tokens", I32, "tokens of the text, special ones included", "tokens"),
        *(Column(name, F32, meaning, "0..1", _NO_KEY) for name, meaning in ENCODER_SCORES.items()),
    ),
)

KINDS = (
    Kind(
        "encoder_attention",
        "`lensbench attention`, `lensbench run` of an attention study, of a text encoder",
        (PROMPTS, ENCODER_HEADS, PHENOMENA, PROBLEMS),
        (PATTERNS, ANSWERS, DEPTHS),
    ),
)
