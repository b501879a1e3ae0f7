"""Tables of a diff: two lens records of the same prompts, a the first and b the second."""

from __future__ import annotations

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
from lensbench.records.schema.every import PROBLEMS
from lensbench.records.schema.lens import MILESTONES

_OTHER_DEPTH = "the models differ in depth: only `depth` compares"
_NOT_KEPT = "not both runs kept their residuals: see residuals_reason in the manifest"
_NOT_READ = "the lenses cannot be compared: see lenses_reason in the manifest"
_LAYER = Column("layer", I16, "0 = embedding, i = after block i - 1", "states", _OTHER_DEPTH)
_DEPTH = Column("depth", F64, "layer / n_layers", "0..1")
_READINGS = {
    "entropy_bits": ("entropy of the lens' distribution", "bits"),
    "kl_bits": ("KL(model || lens)", "bits"),
    "answer_rank": (
        "rank of the answer's first token, all that tie before it",
        "1..d_vocab",
    ),
    "answer_prob": ("its probability", "0..1"),
}
_NO_READING = "one of the two has none there, such as no answer"

DIFF_CELLS = Table(
    "diff_cells",
    "one row per base prompt x layer, at the last position under the lens `final`",
    (
        Column("prompt_id", TEXT, "the prompt"),
        Column("relation", TEXT, "its relation"),
        _LAYER,
        _DEPTH,
        *(
            Column(f"{name}_{side}", F64, f"{what}, in {side}", unit, _NO_READING)
            for name, (what, unit) in _READINGS.items()
            for side in ("a", "b")
        ),
        Column("answer_rank_log2_change", F64, "log2(rank b / rank a)", "log2", _NO_READING),
        Column("top1_same", FLAG, "both lenses have the same top token", null=_OTHER_DEPTH),
        Column("resid_cosine", F64, "cosine of the two residual vectors", "-1..1", _NOT_KEPT),
        Column("resid_change", F64, "||b - a|| / ||a||", "ratio", _NOT_KEPT),
        Column("lens_kl_bits", F64, "KL(lens a || lens b)", "bits", _NOT_READ),
    ),
)


def _milestone(name: str, side: str) -> tuple[Column, Column]:
    layer = f"{MILESTONES[name]}, in {side}"
    return (
        Column(f"{name}_layer_{side}", I16, layer, "states", "never, or cannot be asked"),
        Column(f"{name}_depth_{side}", F64, "that layer / n_layers", "0..1", "as the layer"),
    )


DIFF_PROMPTS = Table(
    "diff_prompts",
    "one row per base prompt of both records: what each model answers, and when",
    (
        Column("prompt_id", TEXT, "the prompt"),
        Column("relation", TEXT, "its relation"),
        Column("prompt", TEXT, "as the first record has it"),
        Column("answer", TEXT, "the right answer", null="the prompt has no answer"),
        *(
            Column(
                f"top1_correct_{side}",
                FLAG,
                f"the output of {side} has the answer at rank 1",
                null="the prompt has no answer",
            )
            for side in ("a", "b")
        ),
        *(
            column
            for name in MILESTONES
            for side in ("a", "b")
            for column in _milestone(name, side)
        ),
    ),
)

DIFF_LAYERS = Table(
    "diff_layers",
    "one row per measure x layer: is the change more than chance, all layers considered?",
    (
        Column("measure", TEXT, "entropy_bits, kl_bits, answer_rank_log2 or answer_prob"),
        _LAYER,
        _DEPTH,
        Column("mean_change", F64, "b minus a, mean over prompts", "the measure's", "no prompt"),
        Column("n_prompts", I32, "prompts that have it in both at every layer", "prompts"),
        Column("n_relations", I32, "their relations", "relations"),
        Column("p_adjusted", F64, "over the layers: Westfall & Young", "0..1", "see the reason"),
        Column("reason", TEXT, "why there is no p", null="there is one"),
    ),
)

KINDS = (
    Kind(
        "diff",
        "`lensbench diff`, `lensbench run` of a diff study",
        (DIFF_CELLS, DIFF_PROMPTS, DIFF_LAYERS, PROBLEMS),
        entries=(
            Entry("residuals_reason", "why residual vectors are not compared", "they are"),
            Entry("lenses_reason", "why the lenses are not compared with each other", "they are"),
        ),
    ),
)
