"""Tables of generation and its traces: what was asked and said, and the mean residual stream."""

from __future__ import annotations

import pyarrow as pa

from lensbench.records.schema.declare import (
    F32,
    F64,
    I16,
    I32,
    I64,
    TEXT,
    Column,
    Kind,
    Table,
)
from lensbench.records.schema.every import PROBLEMS, TEMPLATE_DAY, TRAINED_STYLE
from lensbench.records.schema.residuals import RESIDUAL_INDEX

SPANS = ("prompt", "generated")  # whose tokens
MIXED = "mixed"  # in a comparison: each run's own span, as its name says

_PLAIN = "nothing was retrieved"

RESPONSES = Table(
    "responses",
    "one row per prompt: what was put to the model, and what it said",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("prompt", TEXT, "as written in the user's file"),
        Column("text", TEXT, "as tokenised: with the style's frame and the retrieved context"),
        Column("style", TEXT, '"none", "alpaca" or "chat"'),
        Column("response", TEXT, "what the model said"),
        Column("finish_reason", TEXT, '"stop" (end token) or "length"'),
        Column("n_prompt_tokens", I32, "length of `text`", "tokens"),
        Column("n_generated_tokens", I32, "length of the response, end token included", "tokens"),
        Column("prompt_ids", pa.list_(I32), "tokens of `text`"),
        Column("token_ids", pa.list_(I32), "tokens as generated, end token included"),
        Column(
            "token_logprob_bits",
            pa.list_(F32),
            "log2 of each token's probability under the model at temperature 1",
            "bits",
        ),
        Column(
            "entropy_bits",
            pa.list_(F32),
            "entropy of the distribution each was taken from, at temperature 1",
            "bits",
        ),
        Column("seed", I64, "of this row's own generator", null="greedy decoding"),
        Column("batch", I32, "the planned batch it belongs to, from 0"),
        Column("batch_ids", pa.list_(TEXT), "prompts computed together with it, itself included"),
        Column("retrieved_ids", pa.list_(TEXT), "passages, best first", null=_PLAIN),
        Column("retrieved_scores", pa.list_(F32), "cosine similarity of each", "-1..1", _PLAIN),
        Column("context_start", I32, "where in `text` the context begins", "characters", _PLAIN),
        Column("context_end", I32, "where it ends", "characters", _PLAIN),
        Column(
            "context_tokens_cut",
            I32,
            "taken off the context's end so that the prompt fits",
            "tokens",
            _PLAIN,
        ),
    ),
)

CONTROLS = Table(
    "controls",
    "one row per prompt of a control run: other text stands in for what was retrieved",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("control", TEXT, '"irrelevant" or "shuffled"'),
        Column(
            "length_difference",
            I32,
            "prompt tokens more than with the retrieved text",
            "tokens",
            "not known",
        ),
    ),
)

ACTIVATIONS = Table(
    "activations",
    "one row per prompt x token span x layer: the residual stream, averaged over tokens",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("span", TEXT, "whose tokens: prompt or generated"),
        Column("site", TEXT, "embed or resid_post"),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column("n_tokens", I32, "tokens averaged over; padding never counts", "tokens"),
        Column("mean", pa.list_(F32), "d_model values", null="there is no token in the span"),
        Column(
            "mean_norm",
            F32,
            "mean over tokens of the L2 norm",
            null="there is no token in the span",
        ),
    ),
)

KINDS = (
    Kind(
        "inference",
        "`lensbench infer`",
        (RESPONSES, PROBLEMS),
        optional=(CONTROLS,),
        entries=(TRAINED_STYLE, TEMPLATE_DAY),
    ),
    Kind(
        "trace",
        "`lensbench infer --trace`",
        (RESPONSES, ACTIVATIONS, RESIDUAL_INDEX, PROBLEMS),
        optional=(CONTROLS,),
        entries=(TRAINED_STYLE, TEMPLATE_DAY),
    ),
)
