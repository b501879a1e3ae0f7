"""Tables of texts that are classified: by training an encoder, and by prompting causal models."""

from __future__ import annotations

from lensbench.records.schema.declare import (
    F64,
    I16,
    I32,
    I64,
    TEXT,
    Column,
    Entry,
    Kind,
    Table,
    interval_ends,
    listed,
)
from lensbench.records.schema.every import PROBLEMS

METHODS = {
    "majority": "the most frequent label of the examples, whatever the text",
    "probe": "logistic regression on the mean of a frozen encoder's last states",
    "lora": "low-rank adapters (Hu et al. 2021) on the encoder and a new head",
    "full": "all weights of the encoder and a new head",
    "zero_shot": "a causal model's likeliest label behind the text",
    "zero_shot_calibrated": "the same over how likely it finds the label of texts without content",
    "few_shot": "the same as zero-shot, with examples before the text",
    "few_shot_calibrated": "the same, calibrated",
}
LABELS = {
    "own": "the examples' labels",
    "shuffled": "the same labels, dealt out anew: nothing is to be learnt",
}
# What goes round of DistilBERT on SST-2, without a named run: least and most.
PUBLISHED = {"full": (0.91, 0.91), "lora": (0.85, 0.88)}
PUBLISHED_OF = "DistilBERT on SST-2"

_METHOD = Column("method", TEXT, listed(METHODS))
_MODEL = Column("model", TEXT, "encoder, or causal model", null="the majority needs none")
_LABELS = Column("labels", TEXT, "learnt from: " + listed(LABELS))
_SEED = Column("seed", I32, "of new weights, order, dropout, and which examples are shown")
_NO_MODEL = "the majority needs no model"
_RUN = (_METHOD, _MODEL, _LABELS, _SEED)

PREDICTIONS = Table(
    "class_predictions",
    "one row per method x model x labels x seed x tested example",
    (
        *_RUN,
        Column("example_id", TEXT, "the example"),
        Column("bunch", TEXT, "of those of one group, or nearly alike: the first one's id"),
        Column("label", TEXT, "its own"),
        Column("predicted", TEXT, "the one it is given"),
        Column("label_prob", F64, "given to its own label", "0..1"),
    ),
)
COSTS = Table(
    "class_costs",
    "one row per method x model x labels x seed (calibration: in the row of its method)",
    (
        *_RUN,
        Column("n_trainable", I64, "numbers that are learnt", "parameters", _NO_MODEL),
        Column("n_parameters", I64, "the model's, an adapter left out", "parameters", _NO_MODEL),
        Column(
            "saved_bytes",
            I64,
            "of what is learnt, as safetensors: an adapter with its head, or the whole model",
            "bytes",
            _NO_MODEL,
        ),
        Column(
            "learn_wall_s",
            F64,
            "until the classifier is ready, the loading of the model left out",
            "seconds",
            "nothing is learnt",
        ),
        Column("test_wall_s", F64, "to tell the labels of all tested texts", "seconds"),
        Column(
            "memory_bytes",
            I64,
            "highest use, the model included, less what the process held before",
            "bytes",
            "the system does not tell (macOS)",
        ),
        Column("n_train", I32, "examples to learn from (and to show)", "examples"),
        Column("n_test", I32, "examples that are tested", "examples"),
        Column("n_cut", I32, "texts whose end was cut to fit", "texts", _NO_MODEL),
    ),
)
_FEW = "too few, or too much alike, for an interval"
ACCURACY = Table(
    "class_accuracy",
    "one row per method x model x labels",
    (
        _METHOD,
        _MODEL,
        _LABELS,
        Column("accuracy", F64, "tested examples whose label is told, over all seeds", "0..1"),
        *interval_ends("accuracy", "bunches of examples, the seeds as they are", "", _FEW),
        *interval_ends("seeds", "seeds, the examples as they are", "", f"one seed, or {_FEW}"),
        Column(
            "less_full_pp",
            F64,
            "less the accuracy of `full` with own labels, example by example",
            "-1..1",
            "it is that one, or `full` was not asked for",
        ),
        *interval_ends(
            "less_full_pp",
            "bunches of examples and the seeds of both, together",
            "",
            f"no difference, one seed of what is drawn, or {_FEW}",
        ),
        Column("n_test", I32, "tested examples", "examples"),
        Column("n_bunches", I32, "bunches of them", "bunches"),
        Column("n_seeds", I16, "seeds; 1 where nothing is drawn", "seeds"),
    ),
)

KINDS = (
    Kind(
        "classification",
        "`lensbench classify --out`, `lensbench run` of a classify study",
        (ACCURACY, PREDICTIONS, COSTS, PROBLEMS),
        entries=(
            Entry(
                "examples",
                "`n_train`, `n_test`, `labels` with how many tested examples have each",
                type="object",
            ),
        ),
    ),
)
