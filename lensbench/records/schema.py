"""The contract between whoever measures and whoever reports: columns, types and units.

Any change that a reader of old records would notice raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 2

SITES = ("embed", "resid_mid", "resid_post")
STYLES = ("none", "alpaca", "chat")  # how an instruction is put to a model

# One row per model x prompt: what was asked, and how this model's tokenizer saw it.
PROMPTS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("relation", pa.string()),
        ("prompt", pa.string()),  # as written in the prompt set
        ("text", pa.string()),  # as tokenised: differs from `prompt` under a chat template
        ("template", pa.string()),  # "plain" or "chat"
        ("answer", pa.string()),
        ("category", pa.string()),  # null where the relation has no category word
        ("subject", pa.string()),
        ("control_of", pa.string()),  # prompt_id whose answer this other subject must not give
        ("paraphrase_of", pa.string()),
        ("reverse_of", pa.string()),
        ("answer_id", pa.int32()),  # first token of the answer: the one that is scored
        ("answer_token", pa.string()),
        ("answer_n_tokens", pa.int16()),  # > 1: scored on the first token only
        ("answer_shared_with", pa.string()),  # another answer with the same first token, or null
        ("category_id", pa.int32()),
        ("null_category", pa.string()),  # another relation's category word: the chance level
        ("null_category_id", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("n_tokens", pa.int32()),
    ]
)

# One row per model x prompt x position x residual point x lens.
LENS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("lens", pa.string()),  # a name in lens/registry.py
        ("site", pa.string()),  # SITES
        ("layer", pa.int16()),  # 0 = embedding, i = in or after block i (1-based)
        ("depth", pa.float64()),  # layer / n_layers; resid_mid: (layer - 1/2) / n_layers
        ("position", pa.int32()),  # 0-based, counted without padding
        ("is_last", pa.bool_()),  # the prompt's last position: where the answer is predicted
        ("token_id", pa.int32()),  # the token at `position`
        ("token", pa.string()),
        ("entropy_bits", pa.float32()),
        ("kl_bits", pa.float32()),  # KL(model || lens)
        ("js_bits", pa.float32()),  # Jensen-Shannon(model, lens), 0..1
        ("next_surprisal_bits", pa.float32()),  # of the token that follows; null at the last one
        ("answer_id", pa.int32()),
        ("answer_prob", pa.float32()),
        ("answer_rank", pa.int32()),  # 1 = best
        ("answer_margin_bits", pa.float32()),  # log2 p(answer) - log2 p(best other token)
        ("category_rank", pa.int32()),
        ("null_category_rank", pa.int32()),
        ("resid_norm", pa.float32()),  # L2 norm of the residual stream
        ("cos_final", pa.float32()),  # cosine of the normed residual to the normed final one
        ("top_ids", pa.list_(pa.int32())),
        ("top_probs", pa.list_(pa.float32())),
        ("top_tokens", pa.list_(pa.string())),
    ]
)

# Milestones in the order a report lists them: name -> what the layer is.
MILESTONES = {
    "rank1_first": "first layer with the answer at rank 1",
    "rank1_stable": "layer from which the answer stays at rank 1",
    "top10_first": "first layer with the answer in the top 10",
    "kl_1bit": "first layer within 1 bit of the model's output, KL(model || lens)",
    "copy_first": "first layer whose top token is copied from the prompt",
    "category_over_answer": "first layer where the category outranks the answer",
    "category_top10": "first layer with the category in the top 10",
    "null_category_top10": "first layer with another relation's category in the top 10",
}

# One row per model x prompt x lens, at the prompt's last position over embed and resid_post.
MILESTONE_TABLE = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("relation", pa.string()),
        ("lens", pa.string()),
        ("n_layers", pa.int16()),
        ("top1_correct", pa.bool_()),  # the model's own output has the answer at rank 1
    ]
    + [
        field
        for name in MILESTONES
        for field in (
            (f"{name}_layer", pa.int16()),
            (f"{name}_depth", pa.float64()),
            (f"{name}_reason", pa.string()),  # why the layer is null; null when it is not
        )
    ]
)

# Items that could not be measured: the batch went on without them.
PROBLEMS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("where", pa.string()),
        ("what", pa.string()),
        ("remedy", pa.string()),
    ]
)

# One row per model x prompt of the second path: what was put to the model, what it said.
RESPONSES = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),  # as written in the user's file
        ("text", pa.string()),  # as tokenised: with the style's frame and the retrieved context
        ("style", pa.string()),  # STYLES
        ("response", pa.string()),
        ("finish_reason", pa.string()),  # "stop" (end token) or "length"
        ("n_prompt_tokens", pa.int32()),
        ("n_generated_tokens", pa.int32()),  # the end token counts
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),  # as generated, end token included
        ("token_logprob_bits", pa.list_(pa.float32())),  # log2 p of each under the model, T = 1
        ("entropy_bits", pa.list_(pa.float32())),  # of the distribution each was taken from, T = 1
        ("seed", pa.int64()),  # of this row's own generator; null when greedy
        ("batch", pa.int32()),  # the planned batch it belongs to
        ("batch_ids", pa.list_(pa.string())),  # prompts computed together with it, itself included
        ("retrieved_ids", pa.list_(pa.string())),  # null without retrieval, best first
        ("retrieved_scores", pa.list_(pa.float32())),  # cosine similarity, -1..1
        ("context_start", pa.int32()),  # characters of `text` that are retrieved context
        ("context_end", pa.int32()),
        ("context_tokens_cut", pa.int32()),  # taken off the context's end so that the prompt fits
    ]
)

# One row per model x prompt of a run in which other text stands in for what was retrieved.
CONTROLS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("control", pa.string()),  # "irrelevant" or "shuffled"
        ("length_difference", pa.int32()),  # prompt tokens more than with the retrieved text
    ]
)

SPANS = ("prompt", "generated")
MIXED = "mixed"  # in a comparison: each run's own span, as its name says

# One row per model x prompt x span x layer: the residual stream, averaged over tokens.
ACTIVATIONS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("span", pa.string()),  # SPANS
        ("site", pa.string()),  # embed or resid_post
        ("layer", pa.int16()),  # 0 = embedding, i = after block i (1-based)
        ("depth", pa.float64()),  # layer / n_layers
        ("n_tokens", pa.int32()),  # averaged over; padding never counts
        ("mean", pa.list_(pa.float32())),  # d_model values; null where n_tokens is 0
        ("mean_norm", pa.float32()),  # mean over tokens of the L2 norm
    ]
)

# One row per model x prompt x layer whose whole residual stream was kept: where it is.
RESIDUAL_INDEX = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("site", pa.string()),  # embed or resid_post
        ("layer", pa.int16()),  # 0 = embedding, i = after block i (1-based)
        ("depth", pa.float64()),  # layer / n_layers
        ("file", pa.string()),  # safetensors, from the record's folder
        ("tensor", pa.string()),  # [tokens of several prompts, d_model]
        ("first_row", pa.int64()),  # of the tensor; then the prompt's tokens, then the response's
        ("n_prompt_tokens", pa.int32()),
        ("n_generated_tokens", pa.int32()),
    ]
)

# One row per model x prompt x position of a residual cache, in the order of the shards' rows: what
# the rows are that `residual_index` counts.
RESIDUAL_CELLS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("position", pa.int32()),  # 0-based, without padding; from n_tokens on: the answer's
        ("token_id", pa.int32()),  # the token at `position`
    ]
)

# One row per logged optimiser step or evaluation.
TRAINING = pa.schema(
    [
        ("step", pa.int32()),
        ("epoch", pa.float64()),
        ("loss", pa.float64()),  # mean over response tokens, nats; null in an evaluation row
        ("eval_loss", pa.float64()),
        ("grad_norm", pa.float64()),
        ("learning_rate", pa.float64()),
        ("tokens_per_s", pa.float64()),  # tokens put through, prompt and response; null on eval
    ]
)

# One row per condition x example of an evaluation.
EVALUATION = pa.schema(
    [
        ("model", pa.string()),
        ("condition", pa.string()),  # "base", "adapter", "rag", "adapter+rag"
        ("prompt_id", pa.string()),
        ("group", pa.string()),  # examples about one thing; null where one stands for itself
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("n_generated_tokens", pa.int32()),
        ("bleu", pa.float64()),  # sentence BLEU, 0..100 (sacrebleu, exponential smoothing)
        ("bleu_statistics", pa.list_(pa.int32())),  # lengths and n-gram counts: corpus BLEU's terms
        ("rouge1", pa.float64()),  # F1, 0..1
        ("rouge2", pa.float64()),
        ("rougel", pa.float64()),
        ("reference_nll_bits", pa.float64()),  # sum over the reference's tokens, end token included
        ("n_reference_tokens", pa.int32()),
        ("format_ok", pa.bool_()),
        ("self_check", pa.bool_()),
        ("duplicated", pa.bool_()),
    ]
)

# What a correlation study measures: name -> what it compares.
SIMILARITY_MEASURES = {
    "pearson": "Pearson correlation of the mean vectors",
    "cosine": "cosine of a prompt's two vectors, mean over prompts",
    "cka": "linear CKA, debiased",
    "cka_biased": "linear CKA as first published",
    "rsa": "RSA: Spearman of dissimilarities",
    "procrustes": "Procrustes distance (0 is the same)",
}
# ... and on which form of the activations.
VARIANTS = {
    "as_is": "as they are",
    "without_massive": "without massive dimensions",
    "centred": "centred over all prompts and conditions",
}

# One row per held-out example x placement x repetition of a study: adapters of one size in
# different blocks. The rows of the model without an adapter come once.
PLACEMENT = pa.schema(
    [
        ("model", pa.string()),
        ("placement", pa.string()),  # "base", "suggested", "random block", "complement" ...
        ("repetition", pa.int16()),  # 0-based, a seed of its own; null for the base
        ("blocks", pa.list_(pa.int16())),  # 0-based, those with an adapter
        ("rank", pa.int16()),  # of the adapter; null for the base
        ("prompt_id", pa.string()),
        ("group", pa.string()),  # as in EVALUATION
        ("reference_nll_bits", pa.float64()),
        ("n_reference_tokens", pa.int32()),
    ]
)

# One row per span x condition x measure x variant x layer of a correlation study: the condition
# against the reference at the same layer.
SIMILARITY = pa.schema(
    [
        ("span", pa.string()),  # SPANS
        ("condition", pa.string()),
        ("role", pa.string()),  # "condition" or "control"
        ("measure", pa.string()),  # a key of SIMILARITY_MEASURES
        ("variant", pa.string()),  # a key of VARIANTS
        ("layer", pa.int16()),  # 0 = embedding, i = after block i (1-based)
        ("depth", pa.float64()),
        ("n_prompts", pa.int32()),
        ("value", pa.float64()),  # null where it cannot be measured
        ("low", pa.float64()),  # 95 % interval over prompts
        ("high", pa.float64()),
        ("reason", pa.string()),  # why there is no value, or no interval
    ]
)

# One row per span x condition x measure x variant x pair of layers, each pair once.
LAYER_MAP = pa.schema(
    [
        ("span", pa.string()),
        ("condition", pa.string()),
        ("measure", pa.string()),
        ("variant", pa.string()),
        ("layer_a", pa.int16()),
        ("layer_b", pa.int16()),
        ("value", pa.float64()),
    ]
)

# One row per span x condition x control x measure x variant x layer: its change from the
# reference, less the control's.
LAYER_RANKING = pa.schema(
    [
        ("span", pa.string()),
        ("condition", pa.string()),
        ("control", pa.string()),  # null without one
        ("measure", pa.string()),
        ("variant", pa.string()),
        ("layer", pa.int16()),
        ("block", pa.int16()),  # 0-based: the block that puts this layer out
        ("depth", pa.float64()),
        ("rank", pa.int16()),  # 1 = changed most
        ("change", pa.float64()),  # 1 - similarity, or a distance; less the control's
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("statistic", pa.float64()),
        ("p", pa.float64()),
        ("p_adjusted", pa.float64()),  # over the layers: Westfall & Young
        ("p_bh", pa.float64()),  # over the layers: Benjamini & Hochberg
        ("reason", pa.string()),  # why there is no change, or no interval
        ("p_reason", pa.string()),  # why there is no p
    ]
)

# One row per span x condition x measure x variant: the contiguous blocks that changed most.
LAYER_CHOICE = pa.schema(
    [
        ("span", pa.string()),
        ("condition", pa.string()),
        ("measure", pa.string()),
        ("variant", pa.string()),
        ("n_blocks", pa.int16()),
        ("first_block", pa.int16()),  # 0-based
        ("last_block", pa.int16()),
        ("change", pa.float64()),  # mean over their outputs; with controls, above the strictest
        ("again_share", pa.float64()),  # of bootstrap draws that choose the same blocks
        ("overlap_share", pa.float64()),  # of the blocks that a draw's choice shares, on average
        ("runner_up_first_block", pa.int16()),
        ("runner_up_change", pa.float64()),
        ("apart_first_block", pa.int16()),  # the best that shares no block
        ("apart_change", pa.float64()),
        ("stable_layer", pa.int16()),  # from here on the curve stays where it ends; null if nowhere
        ("reason", pa.string()),  # why there is no choice, or no bootstrap
    ]
)

# One row per span x condition x dimension that holds massive activations.
MASSIVE_DIMENSIONS = pa.schema(
    [
        ("span", pa.string()),
        ("condition", pa.string()),
        ("dimension", pa.int32()),
        ("layer", pa.int16()),  # where it stands out most
        ("n_layers", pa.int16()),  # layers at which it is massive
        ("magnitude", pa.float64()),  # there, median over prompts
        ("times_median", pa.float64()),  # of the magnitudes of its vector, median over prompts
    ]
)

# One row per base prompt x layer of two lens records: a is the first, b the second, at the prompt's
# last position under the lens `final`. A change is b minus a.
DIFF_CELLS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("relation", pa.string()),
        ("layer", pa.int16()),  # null where the models differ in depth: then only `depth` compares
        ("depth", pa.float64()),  # layer / n_layers
    ]
    + [
        field
        for name in ("entropy_bits", "kl_bits", "answer_rank", "answer_prob")
        for field in ((f"{name}_a", pa.float64()), (f"{name}_b", pa.float64()))
    ]
    + [
        ("answer_rank_log2_change", pa.float64()),  # log2(rank b / rank a)
        ("top1_same", pa.bool_()),  # both lenses have the same top token
        ("resid_cosine", pa.float64()),  # of the two residual vectors; null unless both were kept
        ("resid_change", pa.float64()),  # ||b - a|| / ||a||; the same
        ("lens_kl_bits", pa.float64()),  # KL(lens a || lens b); the same
    ]
)

# One row per base prompt of both records: what each model answers, and when.
DIFF_PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("relation", pa.string()),
        ("prompt", pa.string()),  # as the first record has it
        ("answer", pa.string()),
        ("top1_correct_a", pa.bool_()),
        ("top1_correct_b", pa.bool_()),
    ]
    + [
        field
        for name in MILESTONES
        for side in ("a", "b")
        for field in (
            (f"{name}_layer_{side}", pa.int16()),
            (f"{name}_depth_{side}", pa.float64()),
        )
    ]
)

# One row per measure x layer: is the change more than chance, all layers considered?
DIFF_LAYERS = pa.schema(
    [
        ("measure", pa.string()),
        ("layer", pa.int16()),  # null as in DIFF_CELLS
        ("depth", pa.float64()),
        ("mean_change", pa.float64()),  # over prompts
        ("n_prompts", pa.int32()),
        ("n_relations", pa.int32()),
        ("p_adjusted", pa.float64()),  # null where it cannot be tested
        ("reason", pa.string()),  # why it is null; null when it is not
    ]
)

TABLES = {
    "prompts": PROMPTS,
    "lens": LENS,
    "milestones": MILESTONE_TABLE,
    "problems": PROBLEMS,
    "responses": RESPONSES,
    "controls": CONTROLS,
    "activations": ACTIVATIONS,
    "residual_index": RESIDUAL_INDEX,
    "residual_cells": RESIDUAL_CELLS,
    "training": TRAINING,
    "evaluation": EVALUATION,
    "placement": PLACEMENT,
    "diff_cells": DIFF_CELLS,
    "diff_prompts": DIFF_PROMPTS,
    "diff_layers": DIFF_LAYERS,
    "similarity": SIMILARITY,
    "layer_map": LAYER_MAP,
    "layer_ranking": LAYER_RANKING,
    "layer_choice": LAYER_CHOICE,
    "massive_dimensions": MASSIVE_DIMENSIONS,
}

Kind = Literal[
    "lens",
    "inference",
    "trace",
    "training",
    "evaluation",
    "cache",
    "correlation",
    "diff",
    "placement",
]

# The tables that a complete record of each kind holds.
KINDS: dict[Kind, tuple[str, ...]] = {
    "lens": ("prompts", "lens", "milestones", "problems"),
    "inference": ("responses", "problems"),
    "trace": ("responses", "activations", "residual_index", "problems"),
    "training": ("training", "problems"),
    "evaluation": ("evaluation", "problems"),
    "placement": ("placement", "problems"),
    "cache": ("prompts", "residual_index", "residual_cells", "problems"),
    "correlation": (
        "similarity",
        "layer_map",
        "layer_ranking",
        "layer_choice",
        "massive_dimensions",
        "problems",
    ),
    "diff": ("diff_cells", "diff_prompts", "diff_layers", "problems"),
}
