"""The contract between whoever measures and whoever reports: columns, types and units.

Any change that a reader of old records would notice raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

LENSES = ("final", "next", "raw")
POINTS = ("embed", "resid_mid", "resid_post")

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
        ("lens", pa.string()),  # LENSES
        ("point", pa.string()),  # POINTS
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
    "answer_first": "first layer with the answer at rank 1",
    "answer_stays": "layer from which the answer stays at rank 1",
    "answer_top10": "first layer with the answer in the top 10",
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
        ("solved", pa.bool_()),  # the model's own output has the answer at rank 1
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

TABLES = {
    "prompts": PROMPTS,
    "lens": LENS,
    "milestones": MILESTONE_TABLE,
    "problems": PROBLEMS,
}
