"""Tables of adapters: how one was trained, how good it is, and where it is best put."""

from __future__ import annotations

import pyarrow as pa

from lensbench.records.schema.declare import (
    F64,
    FLAG,
    I16,
    I32,
    TEXT,
    Column,
    Entry,
    Kind,
    Table,
)
from lensbench.records.schema.every import PROBLEMS, TEMPLATE_DAY, TRAINED_STYLE

_EVALUATED = "an evaluation's row"
_NLL = "-log2 of the reference's probability, summed over its tokens, end token included"
_REFERENCE = (
    Column("reference_nll_bits", F64, _NLL, "bits"),
    Column("n_reference_tokens", I32, "their number", "tokens"),
)

TRAINING = Table(
    "training",
    "one row per logged optimiser step or evaluation",
    (
        Column("step", I32, "optimiser steps so far", "steps"),
        Column("epoch", F64, "times the data were seen so far", "epochs"),
        Column(
            "loss_nats",
            F64,
            "mean over the tokens learnt; of an adapter the response's",
            "nats",
            _EVALUATED,
        ),
        Column("eval_loss_nats", F64, "the same on held-out pairs or text", "nats", "a step's row"),
        Column("grad_norm", F64, "L2 norm of the gradient before clipping", null=_EVALUATED),
        Column("learning_rate", F64, "at this step", null=_EVALUATED),
        Column(
            "tokens_per_s",
            F64,
            "tokens put through, of an adapter prompt and response",
            "tokens per second",
            _EVALUATED,
        ),
    ),
)

EVALUATION = Table(
    "evaluation",
    "one row per condition x example",
    (
        Column("model", TEXT, "the model's name"),
        Column("condition", TEXT, '"base", "adapter", "rag" or "adapter+rag"'),
        Column("prompt_id", TEXT, "the example"),
        Column("group", TEXT, "examples about one thing", null="it stands for itself"),
        Column("prompt", TEXT, "the instruction"),
        Column("reference", TEXT, "the response that the data give"),
        Column("response", TEXT, "what the model said"),
        Column("finish_reason", TEXT, '"stop" (end token) or "length"'),
        Column("n_generated_tokens", I32, "length of the response", "tokens"),
        Column("bleu", F64, "sentence BLEU (sacrebleu, exponential smoothing)", "0..100"),
        Column(
            "bleu_statistics",
            pa.list_(I32),
            "lengths of response and reference, matching n-grams of orders 1 to 4, then the "
            "response's: what corpus BLEU is summed from",
            "words",
        ),
        Column("rouge1", F64, "F1 of shared words", "0..1", "the reference has no word"),
        Column("rouge2", F64, "F1 of shared word pairs", "0..1", "the reference has no pair"),
        Column("rougel", F64, "F1 of the longest common subsequence", "0..1", "as rouge1"),
        *_REFERENCE,
        Column("format_ok", FLAG, "the response is one whole turn and frames no other"),
        Column("self_check", FLAG, "it goes on to check itself or to another exercise"),
        Column("duplicated", FLAG, "a line or sentence of four words or more occurs twice"),
    ),
)

PLACEMENT = Table(
    "placement",
    "one row per held-out example x placement x repetition: adapters of one size in different "
    "blocks; the rows of the model without an adapter come once",
    (
        Column("model", TEXT, "the model's name"),
        Column(
            "placement",
            TEXT,
            '"base", "suggested", "random block", "complement" or "all blocks"',
        ),
        Column("repetition", I16, "from 0, a seed of its own", null="the base"),
        Column("blocks", pa.list_(I16), "blocks with an adapter, from 0"),
        Column("rank", I16, "of the adapter", null="the base"),
        Column("prompt_id", TEXT, "the example"),
        Column("group", TEXT, "examples about one thing", null="it stands for itself"),
        *_REFERENCE,
    ),
)

KINDS = (
    Kind(
        "training",
        "`lensbench train`",
        (TRAINING, PROBLEMS),
        entries=(
            Entry("adapter", "blocks and modules with an adapter, parameters trained and in all"),
            Entry("examples_cut", "pairs that were cut to fit"),
            Entry("prefix", "states that enter the lowest adapted block: kept or not, their size"),
            Entry("resumed_from_step", "step of the checkpoint it went on from", "not interrupted"),
        ),
    ),
    Kind(
        "evaluation",
        "`lensbench eval`",
        (EVALUATION, PROBLEMS),
        entries=(
            Entry("context_cut", "examples whose context was cut to fit, and tokens in all"),
            TRAINED_STYLE,
            TEMPLATE_DAY,
        ),
    ),
    Kind("placement", "`lensbench run` of a placement study", (PLACEMENT, PROBLEMS)),
)
