"""Residual vectors that a record keeps: where each one is. The vectors are in safetensors."""

from __future__ import annotations

from lensbench.records.schema.declare import F64, I16, I32, I64, TEXT, Column, Table

RESIDUAL_INDEX = Table(
    "residual_index",
    "one row per prompt x site whose residual vectors were kept: where they are",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("site", TEXT, "embed, resid_mid or resid_post"),
        Column("layer", I16, "0 = embedding, i = in or after block i - 1", "states"),
        Column("depth", F64, "as in `lens`", "0..1"),
        Column("file", TEXT, "safetensors file, from the record's folder"),
        Column("tensor", TEXT, "its tensor: [tokens of several prompts, d_model]"),
        Column("first_row", I64, "the prompt's first row; its tokens, then the response's", "rows"),
        Column("n_prompt_tokens", I32, "rows that are the prompt's", "tokens"),
        Column("n_generated_tokens", I32, "rows that are the response's or answer's", "tokens"),
    ),
)

RESIDUAL_CELLS = Table(
    "residual_cells",
    "one row per prompt x position, in the order of the tensors' rows",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("position", I32, "from 0, without padding; from n_tokens on the answer's", "tokens"),
        Column("token_id", I32, "the token at `position`"),
    ),
)
