"""Tables of a correlation study: conditions against a reference, layer by layer."""

from __future__ import annotations

from lensbench.records.schema.declare import F64, I16, I32, TEXT, Column, Entry, Kind, Table
from lensbench.records.schema.every import PROBLEMS

# What is measured: name -> what it compares.
SIMILARITY_MEASURES = {
    "pearson": "Pearson correlation of the mean vectors",
    "cosine": "cosine of a prompt's two vectors, mean over prompts",
    "cka": "linear CKA, debiased",
    "cka_biased": "linear CKA as first published",
    "rsa": "RSA: Spearman of dissimilarities",
    "procrustes": "Procrustes distance (0 is the same)",
}
# Between which numbers each lies, and so the ends of its interval.
SIMILARITY_ENDS = dict.fromkeys(SIMILARITY_MEASURES, (-1.0, 1.0)) | {
    "cka_biased": (0.0, 1.0),
    "procrustes": (0.0, 2.0),
}
# ... and on which form of the activations.
VARIANTS = {
    "as_is": "as they are",
    "without_massive": "without massive dimensions",
    "centred": "centred over all prompts and conditions",
}

_SPAN = Column("span", TEXT, "whose tokens: prompt, generated, or mixed (each run's own)")
_CONDITION = Column("condition", TEXT, "the run that is compared")
_MEASURE = Column("measure", TEXT, ", ".join(SIMILARITY_MEASURES))
_VARIANT = Column("variant", TEXT, "form of the activations: " + ", ".join(VARIANTS))
_KEYS = (_SPAN, _CONDITION, _MEASURE, _VARIANT)
_LAYER = Column("layer", I16, "0 = embedding, i = after block i - 1", "states")
_DEPTH = Column("depth", F64, "layer / n_layers of the reference", "0..1")
_UNMEASURED = "it cannot be measured: see the reason"
_NO_INTERVAL = "no interval: see the reason"
_NO_TEST = "no test: see p_reason"
_NO_CHOICE = "no choice: see the reason"

SIMILARITY = Table(
    "similarity",
    "one row per span x condition x measure x variant x layer: the condition against the "
    "reference at the same layer",
    (
        _SPAN,
        _CONDITION,
        Column("role", TEXT, '"condition" or "control"'),
        _MEASURE,
        _VARIANT,
        _LAYER,
        _DEPTH,
        Column("n_prompts", I32, "prompts compared", "prompts"),
        Column("value", F64, "the measure's value", "-1..1, or a distance", _UNMEASURED),
        Column("low", F64, "lower end of the 95 % interval over prompts", null=_NO_INTERVAL),
        Column("high", F64, "its upper end", null=_NO_INTERVAL),
        Column("reason", TEXT, "why there is no value, or no interval", null="there are both"),
    ),
)

LAYER_MAP = Table(
    "layer_map",
    "one row per span x condition x measure x variant x pair of its layers, each pair once",
    (
        *_KEYS,
        Column("layer_a", I16, "a layer", "states"),
        Column("layer_b", I16, "the same one or a later one", "states"),
        Column("value", F64, "the measure's value between them", null="it cannot be measured"),
    ),
)

LAYER_RANKING = Table(
    "layer_ranking",
    "one row per span x condition x control x measure x variant x layer: its change from the "
    "reference, less the control's",
    (
        _SPAN,
        _CONDITION,
        Column("control", TEXT, "the control run", null="none"),
        _MEASURE,
        _VARIANT,
        _LAYER,
        Column("block", I16, "block that puts this layer out, from 0", "blocks"),
        _DEPTH,
        Column("rank", I16, "1 = changed most", null=_UNMEASURED),
        Column(
            "change",
            F64,
            "1 - similarity, or the distance, less the control's",
            null=_UNMEASURED,
        ),
        Column("low", F64, "lower end of its 95 % interval", null=_NO_INTERVAL),
        Column("high", F64, "its upper end", null=_NO_INTERVAL),
        Column("statistic", F64, "what is tested", null=_NO_TEST),
        Column("p", F64, "p value of the permutation test", "0..1", _NO_TEST),
        Column("p_adjusted", F64, "over the layers: Westfall & Young", "0..1", _NO_TEST),
        Column("p_bh", F64, "over the layers: Benjamini & Hochberg", "0..1", _NO_TEST),
        Column("reason", TEXT, "why there is no change, or no interval", null="there are both"),
        Column("p_reason", TEXT, "why there is no p", null="there is one"),
    ),
)

LAYER_CHOICE = Table(
    "layer_choice",
    "one row per span x condition x measure x variant: the contiguous blocks that changed most",
    (
        *_KEYS,
        Column("n_blocks", I16, "how many were asked for", "blocks"),
        Column("first_block", I16, "the first chosen one, from 0", null=_NO_CHOICE),
        Column("last_block", I16, "the last chosen one", null=_NO_CHOICE),
        Column(
            "change",
            F64,
            "mean change over their outputs; with controls, above the strictest",
            null=_NO_CHOICE,
        ),
        Column(
            "again_share",
            F64,
            "bootstrap draws that choose the same blocks",
            "0..1",
            "no bootstrap",
        ),
        Column(
            "overlap_share",
            F64,
            "blocks that a draw's choice shares with it, mean over draws",
            "0..1",
            "no bootstrap",
        ),
        Column("runner_up_first_block", I16, "first of the second best", null="there is none"),
        Column("runner_up_change", F64, "its mean change", null="there is none"),
        Column("apart_first_block", I16, "first of the best that shares no block", null="none"),
        Column("apart_change", F64, "its mean change", null="there is none"),
        Column("stable_layer", I16, "from here on the curve stays where it ends", null="nowhere"),
        Column("reason", TEXT, "why there is no choice, or no bootstrap", null="there are both"),
    ),
)

MASSIVE_DIMENSIONS = Table(
    "massive_dimensions",
    "one row per span x condition x dimension that holds massive activations",
    (
        _SPAN,
        _CONDITION,
        Column("dimension", I32, "of the residual stream, from 0"),
        Column("layer", I16, "where it stands out most", "states"),
        Column("n_layers", I16, "layers at which it is massive", "states"),
        Column("magnitude", F64, "its magnitude there, median over prompts"),
        Column(
            "times_median",
            F64,
            "the same over the median magnitude of its vector, median over prompts",
            "times",
        ),
    ),
)

KINDS = (
    Kind(
        "correlation",
        "`lensbench correlate`, `lensbench run` of a correlation study",
        (SIMILARITY, LAYER_MAP, LAYER_RANKING, LAYER_CHOICE, MASSIVE_DIMENSIONS, PROBLEMS),
        entries=(
            Entry(
                "spans",
                "by span and condition: prompts and groups compared, mean tokens, own layers",
            ),
        ),
    ),
)
