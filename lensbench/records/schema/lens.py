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
    "the prompt has no answer, or not measured elsewhere",
    "no category word, none that can be scored, or not measured elsewhere",
)
_NO_OTHER = "no answer, or no other form of it"
_OLDER = "no answer, or a record of schema 2 or older"
_NO_NUMBER = "it is not a number, or no float64 sum is near enough to give it"
_UNTOLD = "not told by an imported record"
_FILLED_MODEL = "the model's name in the manifest"

PROMPTS = Table(
    "prompts",
    "one row per prompt: what was asked, and how the model's tokenizer saw it",
    (
        Column("model", TEXT, "the model's name", filled=_FILLED_MODEL),
        Column("prompt_id", TEXT, "the prompt, in every table"),
        Column(
            "relation",
            TEXT,
            "what the prompt asks for; intervals are clustered by it",
            filled='"prompt"',
        ),
        Column("prompt", TEXT, "as written in the prompt set"),
        Column(
            "text",
            TEXT,
            "as tokenised: differs from `prompt` under a chat template",
            filled="as `prompt`",
        ),
        Column("template", TEXT, '"plain" or "chat"', null=_UNTOLD),
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
        Column("token_ids", pa.list_(I32), "tokens that went through the model", null=_UNTOLD),
        Column("tokens", pa.list_(TEXT), "the same as text", null=_UNTOLD),
        Column("n_tokens", I32, "their number", "tokens", _UNTOLD),
    ),
)

LENS = Table(
    "lens",
    "one row per prompt x position x site x lens",
    (
        Column("model", TEXT, "the model's name", filled=_FILLED_MODEL),
        Column("prompt_id", TEXT, "the prompt"),
        Column(
            "lens",
            TEXT,
            'a lens\' name, such as "final"',
            filled="the one lens that the manifest describes",
        ),
        Column(
            "site",
            TEXT,
            "embed, resid_mid (after attention) or resid_post (after the block)",
            filled="embed at layer 0, resid_post at all others",
        ),
        Column("layer", I16, "0 = embedding, i = in or after block i - 1", "states", least=0),
        Column(
            "depth",
            F64,
            "layer / n_layers; at resid_mid (layer - 1/2) / n_layers",
            "0..1",
            filled="layer / n_layers",
            least=0,
            most=1,
        ),
        Column("position", I32, "counted from 0 without padding", "tokens", null=_UNTOLD, least=0),
        Column(
            "is_last",
            FLAG,
            "the prompt's last position: where the answer is predicted",
            filled="true at each prompt's largest position",
        ),
        Column("token_id", I32, "the token at `position`", null=_UNTOLD),
        Column("token", TEXT, "that token as text", null=_UNTOLD),
        Column(
            "entropy_bits", F32, "entropy of the lens' distribution", "bits", _NO_NUMBER, least=0
        ),
        Column(
            "kl_bits",
            F32,
            "KL(model || lens); the model as the manifest's `model_logits` says",
            "bits",
            _NO_NUMBER,
            least=0,
        ),
        Column(
            "js_bits",
            F32,
            "Jensen-Shannon divergence of the two",
            "bits, 0..1",
            "not asked for (`also`), or it is not a number",
            least=0,
            most=1,
        ),
        Column(
            "next_surprisal_bits",
            F32,
            "-log2 of the probability of the token that follows",
            "bits",
            "at the last position nothing follows",
            least=0,
        ),
        Column("answer_id", I32, "first token of the answer", null=_NO_ANSWER),
        Column(
            "answer_prob", F32, "probability of that token", "0..1", _NO_ANSWER, least=0, most=1
        ),
        Column(
            "answer_rank", I32, "1 + the number of better tokens", "1..d_vocab", _NO_ANSWER, least=1
        ),
        Column(
            "answer_ties",
            I32,
            "other tokens of exactly its probability; at rank 1, or in the top 10, is an answer "
            "that is so behind them",
            "0..d_vocab - 1",
            _OLDER,
            since=3,
            least=0,
        ),
        Column(
            "answer_guess_rank",
            I32,
            "of a fitted lens: the answer's rank, all that tie with it before it, by that control "
            "of the lens which has it best; controls are given the last token's embedding alone",
            "1..d_vocab",
            "no answer, a lens without controls, or a record made before there were any",
            since=3,
            least=1,
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
            least=0,
            most=1,
        ),
        Column(
            "answer_other_rank",
            I32,
            "its rank, 1 = best",
            "1..d_vocab",
            _NO_OTHER,
            since=3,
            least=1,
        ),
        Column(
            "category_rank", I32, "rank of the category word", "1..d_vocab", _NO_CATEGORY, least=1
        ),
        Column(
            "null_category_rank",
            I32,
            "rank of another relation's category word",
            "1..d_vocab",
            _NO_CATEGORY,
            least=1,
        ),
        Column("resid_norm", F32, "L2 norm of the residual stream", null=_NO_NUMBER, least=0),
        Column(
            "cos_final",
            F32,
            "cosine of the normed residual to the normed last one",
            "-1..1",
            "a zero vector has no direction",
            least=-1,
            most=1,
        ),
        Column("top_ids", pa.list_(I32), "the most probable tokens, best first", null=_UNTOLD),
        Column(
            "top_probs", pa.list_(F32), "their probabilities", "0..1", null=_UNTOLD, least=0, most=1
        ),
        Column("top_tokens", pa.list_(TEXT), "the same as text", null=_UNTOLD),
    ),
)

# Columns that are measured only where a run asks for them.
ON_REQUEST = ("js_bits",)

# Why a milestone has no layer, besides that it never comes: it was not read (and at which layers),
# or there is nothing to ask.
NOT_MEASURED = "not measured"
NO_ANSWER, NO_CATEGORY = "the prompt has no answer", "the relation has no category word"
MUTE_CATEGORY = "the first token of the category word says nothing of it"
CATEGORY_GIVEN = "the category word stands in the prompt"
GUESSED = "a control of the lens reads it from the last token alone"
NOT_ASKED = (NO_ANSWER, NO_CATEGORY, MUTE_CATEGORY, CATEGORY_GIVEN, GUESSED)

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
# Those that say the answer is read, and the rank at which a control of the lens takes them away.
READ_AT = {"rank1_first": 1, "rank1_stable": 1, "top10_first": 10}


def _milestone(name: str, meaning: str) -> tuple[Column, ...]:
    columns = (
        Column(
            f"{name}_layer", I16, meaning, "states", "never, or cannot be asked: see the reason"
        ),
        Column(f"{name}_depth", F64, "that layer / n_layers", "0..1", "as the layer"),
        Column(f"{name}_reason", TEXT, "why there is no layer", null="there is one"),
    )
    guessed = Column(
        f"{name}_guessed_layer",
        I16,
        "where a control of the lens reads the answer too: the layer without regard to that",
        "states",
        "no control does, or it never comes",
        since=3,
    )
    return (*columns, guessed) if name in READ_AT else columns


MILESTONE_TABLE = Table(
    "milestones",
    "one row per prompt x lens, read at the last position over embed and resid_post",
    (
        Column("model", TEXT, "the model's name", filled=_FILLED_MODEL),
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
        "`lensbench lens --prompts`, `lensbench lens --cache`, `lensbench run`, `lensbench import`",
        (PROMPTS, LENS, MILESTONE_TABLE, PROBLEMS),
        optional=(RESIDUAL_INDEX, RESIDUAL_CELLS),
        entries=(
            Entry(
                "lenses",
                "of each lens by name: `norm` (final, next, none, other), `fitted`, `soft_cap` (is "
                "the model's in it), `kl` (model_lens: kl_bits is KL(model || lens)), `output` (at "
                "the last layer it is the model's own output) and `description`; of a fitted lens "
                "also its file's hash (`lens_sha256`), its `controls` by name, what model it was "
                "`fitted_to`, and `held_out`: `kl_bits`, its KL(model || lens) on text that it "
                "never saw (a mean over tokens and over the layers below the last), "
                "`final_kl_bits`, that of the lens final on the same `n_tokens` tokens, and "
                "`text_sha256` of the documents; where it was measured on another `corpus`, too, "
                "`also`, the same there; of a lens that others published what it says of "
                "itself (`published`), what of its model is `unchecked`, and the `first_layer` "
                "that it has a map of",
                absent="measured by lensbench without a fitted lens: final, next and raw",
                type="object",
            ),
            Entry(
                "read_again",
                "how many readings float32 products could have left further than 2e-5 bits + 2e-5 "
                "of it from float64 in entropy or KL, and so were made again in float64 "
                "(`n_read_again`), of how many (`n_rows`: fewer than there are where a narrower "
                "record was widened before this was kept of it)",
                absent="imported, or measured before this was looked at",
                type="object",
            ),
            Entry(
                "recomputed",
                "of the head's products in bfloat16 parts: what `share` of all logits (`n` of "
                "`n_logits`) was computed again in float64 to decide ranks and top tokens, and the "
                "largest error among them and among other tokens of each state "
                "(`worst_error_roundings`: multiples of 2^-23 of a logit's sum of absolute terms). "
                "Of a widened record without `n_logits` both are of the last widening alone",
                absent="products in float32, or a narrower record has it without `n_logits`",
                type="object",
            ),
            Entry(
                "measured",
                "who measured an imported record: `tool`, `version`, `by`, `day`, `source` (all "
                "other entries on how it was made are of the import)",
                absent="measured by lensbench",
                type="object",
            ),
        ),
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
