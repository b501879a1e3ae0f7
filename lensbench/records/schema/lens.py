"""Tables of a lens run: what was asked, what each layer reads, and when something becomes true."""

from __future__ import annotations

import pyarrow as pa

from lensbench.records.schema.declare import (
    F32,
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
from lensbench.records.schema.residuals import RESIDUAL_CELLS, RESIDUAL_INDEX

_NO_ANSWER, _NO_CATEGORY = (
    "the prompt has no answer",
    "no category word, or none that can be scored",
)
_NO_OTHER = "no answer, or no other form of it"
_OLDER = "no answer, or a record of schema 2 or older"
_NO_NUMBER = "it is not a number"

PROMPTS = Table(
    "prompts",
    "one row per prompt: what was asked, and how the model's tokenizer saw it",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt, in every table"),
        Column("relation", TEXT, "what the prompt asks for; intervals are clustered by it"),
        Column("prompt", TEXT, "as written in the prompt set"),
        Column("text", TEXT, "as tokenised: differs from `prompt` under a chat template"),
        Column("template", TEXT, '"plain" or "chat"'),
        Column("answer", TEXT, "the right answer", null=_NO_ANSWER),
        Column("category", TEXT, "word for the kind of the answer", null=_NO_CATEGORY),
        Column("subject", TEXT, "what the prompt is about", null="not said"),
        Column(
            "control_of", TEXT, "prompt whose answer this other subject must not give", null="-"
        ),
        Column("paraphrase_of", TEXT, "prompt that this one words otherwise", null="-"),
        Column("reverse_of", TEXT, "prompt that this one asks the other way round", null="-"),
        Column(
            "answer_id", I32, "first token of the answer: the one that is scored", null=_NO_ANSWER
        ),
        Column("answer_token", TEXT, "that token as text", null=_NO_ANSWER),
        Column(
            "answer_n_tokens",
            I16,
            "tokens of the whole answer; above 1 only the first is scored",
            "tokens",
            _NO_ANSWER,
        ),
        Column(
            "answer_joint",
            TEXT,
            "what stands between text and answer: written (as in the prompt set), space, none, or "
            "space_token (a token of its own, at the end of `text`)",
            null=_OLDER,
            since=3,
        ),
        Column(
            "answer_split",
            FLAG,
            "the tokenizer would merge the answer's start with the prompt's end; it was kept apart",
            null=_OLDER,
            since=3,
        ),
        Column(
            "answer_other_id",
            I32,
            "first token of the answer's other form",
            null=_NO_OTHER,
            since=3,
        ),
        Column(
            "answer_other_token",
            TEXT,
            "that token as text: with or without space",
            null=_NO_OTHER,
            since=3,
        ),
        Column("answer_shared_with", TEXT, "another answer with the same first token", null="none"),
        Column("category_id", I32, "first token of the category word", null=_NO_CATEGORY),
        Column(
            "null_category",
            TEXT,
            "another relation's category word: the chance level",
            null=_NO_CATEGORY,
        ),
        Column("null_category_id", I32, "its first token", null=_NO_CATEGORY),
        Column("token_ids", pa.list_(I32), "tokens that went through the model"),
        Column("tokens", pa.list_(TEXT), "the same as text"),
        Column("n_tokens", I32, "their number", "tokens"),
    ),
)

LENS = Table(
    "lens",
    "one row per prompt x position x site x lens",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("lens", TEXT, 'a lens\' name, such as "final"'),
        Column("site", TEXT, "embed, resid_mid (after attention) or resid_post (after the block)"),
        Column("layer", I16, "0 = embedding, i = in or after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers; at resid_mid (layer - 1/2) / n_layers", "0..1"),
        Column("position", I32, "counted from 0 without padding", "tokens"),
        Column("is_last", FLAG, "the prompt's last position: where the answer is predicted"),
        Column("token_id", I32, "the token at `position`"),
        Column("token", TEXT, "that token as text"),
        Column("entropy_bits", F32, "entropy of the lens' distribution", "bits", _NO_NUMBER),
        Column(
            "kl_bits",
            F32,
            "KL(model || lens); the model as the manifest's `model_logits` says",
            "bits",
            _NO_NUMBER,
        ),
        Column("js_bits", F32, "Jensen-Shannon divergence of the two", "bits, 0..1", _NO_NUMBER),
        Column(
            "next_surprisal_bits",
            F32,
            "-log2 of the probability of the token that follows",
            "bits",
            "at the last position nothing follows",
        ),
        Column("answer_id", I32, "first token of the answer", null=_NO_ANSWER),
        Column("answer_prob", F32, "probability of that token", "0..1", _NO_ANSWER),
        Column("answer_rank", I32, "1 + the number of better tokens", "1..d_vocab", _NO_ANSWER),
        Column(
            "answer_ties",
            I32,
            "other tokens of exactly its probability; at rank 1, or in the top 10, is an answer "
            "that is so behind them",
            "0..d_vocab - 1",
            _OLDER,
            since=3,
        ),
        Column(
            "answer_margin_bits",
            F32,
            "log2 p(answer) - log2 p(best other token)",
            "bits",
            _NO_ANSWER,
        ),
        Column(
            "answer_other_prob",
            F32,
            "probability of the answer's other form, with or without its space",
            "0..1",
            _NO_OTHER,
            since=3,
        ),
        Column("answer_other_rank", I32, "its rank, 1 = best", "1..d_vocab", _NO_OTHER, since=3),
        Column("category_rank", I32, "rank of the category word", "1..d_vocab", _NO_CATEGORY),
        Column(
            "null_category_rank",
            I32,
            "rank of another relation's category word",
            "1..d_vocab",
            _NO_CATEGORY,
        ),
        Column("resid_norm", F32, "L2 norm of the residual stream", null=_NO_NUMBER),
        Column(
            "cos_final",
            F32,
            "cosine of the normed residual to the normed last one",
            "-1..1",
            "a zero vector has no direction",
        ),
        Column("top_ids", pa.list_(I32), "the most probable tokens, best first"),
        Column("top_probs", pa.list_(F32), "their probabilities", "0..1"),
        Column("top_tokens", pa.list_(TEXT), "the same as text"),
    ),
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


def _milestone(name: str, meaning: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{name}_layer", I16, meaning, "states", "never, or cannot be asked: see the reason"
        ),
        Column(f"{name}_depth", F64, "that layer / n_layers", "0..1", "as the layer"),
        Column(f"{name}_reason", TEXT, "why there is no layer", null="there is one"),
    )


MILESTONE_TABLE = Table(
    "milestones",
    "one row per prompt x lens, read at the last position over embed and resid_post",
    (
        Column("model", TEXT, "the model's name"),
        Column("prompt_id", TEXT, "the prompt"),
        Column("relation", TEXT, "its relation"),
        Column("lens", TEXT, "the lens"),
        Column("n_layers", I16, "blocks of the model", "blocks"),
        Column(
            "top1_correct",
            FLAG,
            "the model's own output has the answer, and it alone, at rank 1",
            null="no answer, or the lens `final` was not read",
        ),
        *(column for name, what in MILESTONES.items() for column in _milestone(name, what)),
    ),
)

KINDS = (
    Kind(
        "lens",
        "`lensbench lens --prompts`, `lensbench lens --cache`, `lensbench run`",
        (PROMPTS, LENS, MILESTONE_TABLE, PROBLEMS),
        optional=(RESIDUAL_INDEX, RESIDUAL_CELLS),
    ),
    Kind(
        "cache",
        "`lensbench cache`",
        (PROMPTS, RESIDUAL_INDEX, RESIDUAL_CELLS, PROBLEMS),
        entries=(
            Entry("sites", "site and layer of every tensor, in the order of the stream"),
            Entry("prompt_sha256", "hash of each prompt's text, by prompt_id"),
            Entry(
                "stored_kl_bits",
                "KL(model || readout of the last layer as it is on disk), worst cell, bits",
                "no cell, or the last layer is not kept",
            ),
        ),
    ),
)
