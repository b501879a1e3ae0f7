"""Tables of small models trained from random weights, and of what becomes of them step by step."""

from __future__ import annotations

from lensbench.records.schema.adapters import TRAINING
from lensbench.records.schema.attention import NAMES
from lensbench.records.schema.declare import F64, I16, I32, I64, TEXT, Column, Entry, Kind, Table
from lensbench.records.schema.every import PROBLEMS

_UNTRAINED = "a model of the same shape with weights drawn anew"
_RUN = (
    Column("run", TEXT, "the run's name; untrained: " + _UNTRAINED),
    Column("seed", I32, "of the run, or of the weights drawn anew"),
    Column("step", I32, "optimiser steps so far", "steps"),
)
_NO_INTERVAL = "too few documents for one"

# Of `lensbench attention`, over random tokens that come four times, drawn from held-out text.
HEAD_SCORES = {
    "induction": "attention to the token after the last earlier one that is the same",
    "prefix_matching": "attention to the tokens after all earlier ones that are the same",
    "duplicate_token": "attention to earlier tokens that are the same",
    "previous_token": "attention to the token before",
    "current_token": "attention to the token itself",
    "first_token": "attention to the first token",
    "entropy_share": "entropy, as a share of that of even attention to all there is",
}

LINEAGE = Table(
    "lineage",
    "one row per run x step that was kept, and one per untrained model",
    (
        *_RUN,
        Column("n_tokens", I64, "tokens trained on so far", "tokens"),
        Column(
            "eval_loss_nats",
            F64,
            "mean over held-out tokens, as training logged it",
            "nats",
            "an untrained model",
        ),
        Column(
            "first_loss_nats",
            F64,
            "of random tokens that are seen for the first time, mean over tokens",
            "nats",
        ),
        Column("repeat_loss_nats", F64, "of the same tokens each time they come again", "nats"),
        Column("induction", F64, "the highest score of any head (`lineage_heads`)", "0..1"),
        Column("induction_block", I16, "the block of that head, from 0"),
        Column("induction_head", I16, "its number in the block, from 0"),
    ),
)

LINEAGE_HEADS = Table(
    "lineage_heads",
    "one row per run x step x head, and per head of each untrained model",
    (
        *_RUN,
        Column("block", I16, "from 0"),
        Column("head", I16, "from 0"),
        *(Column(name, F64, meaning, "0..1") for name, meaning in HEAD_SCORES.items()),
    ),
)

LINEAGE_NAMES = Table(
    "lineage_names",
    "one row per run x step x head: its name, as `lensbench attention` gives it, over held-out "
    "text and repeated tokens",
    (
        *_RUN,
        *(column for column in NAMES.columns if column.name not in ("model", "shuffled_value")),
    ),
)

LINEAGE_LENSES = Table(
    "lineage_lenses",
    "one row per run x step x reading x layer, over held-out tokens to which nothing was fitted",
    (
        *_RUN,
        Column("reading", TEXT, "fitted (a linear lens of this step) or final (the logit lens)"),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column("kl_bits", F64, "KL(model || reading), mean over tokens", "bits"),
        Column("kl_bits_low", F64, "of its 95 % interval over documents", "bits", _NO_INTERVAL),
        Column("kl_bits_high", F64, "of its 95 % interval over documents", "bits", _NO_INTERVAL),
        Column("top1_agreement", F64, "tokens where the model has the same top token", "0..1"),
        Column("n_tokens", I32, "tokens", "tokens"),
        Column("n_documents", I32, "documents", "documents"),
    ),
)

PHASES = Table(
    "phases",
    "one row per run x phase of its training loss: a line in pieces is fitted to means of the loss "
    "in bins that are even in log2 of the step, and the number of pieces is that of the least BIC",
    (
        Column("run", TEXT, "the run's name"),
        Column("phase", I16, "from 1"),
        Column("from_step", F64, "step at which it begins", "steps"),
        Column("from_step_low", F64, "of its 95 % interval", "steps", "the first phase"),
        Column("from_step_high", F64, "of its 95 % interval", "steps", "the first phase"),
        Column("slope", F64, "change of the loss each time the steps double", "nats"),
        Column("slope_low", F64, "of its 95 % interval", "nats"),
        Column("slope_high", F64, "of its 95 % interval", "nats"),
        Column("explained", F64, "share of the variance of the binned loss, all phases", "0..1"),
        Column("n_bins", I32, "bins of the run", "bins"),
    ),
)

KINDS = (
    Kind(
        "pretraining",
        "`lensbench pico train`",
        (TRAINING, PROBLEMS),
        entries=(
            Entry(
                "corpus",
                "its `name` and `sha256`; documents and tokens to train on (`n_documents`, "
                "`n_tokens`) and held out (`n_held_out_documents`, `n_held_out_tokens`); `hub` "
                "where it is of the hub",
                type="object",
            ),
            Entry(
                "kept",
                "of each step whose model is kept: `step`, `folder` and the hashes of its files, "
                "`weights_sha256` and those that a record's `model` has",
                type="array",
            ),
            Entry("resumed_from_step", "step of the checkpoint it went on from", "not interrupted"),
        ),
    ),
    Kind(
        "lineage",
        "`lensbench pico analyse`",
        (LINEAGE, LINEAGE_HEADS, LINEAGE_NAMES, LINEAGE_LENSES, PHASES, PROBLEMS),
    ),
)
