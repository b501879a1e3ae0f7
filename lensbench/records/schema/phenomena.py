"""Tables of what heads answer to questions about the words of sentences."""

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
    Table,
    interval_ends,
    listed,
)

DIRECTIONS = {
    "back": "asked at the later of the two words, for the earlier one, as causal models must be",
    "to_head": "asked at the dependent, for its head",
    "to_dependent": "asked at the head, for its dependent",
}
_FEW = "too few sentences for two halves"
_NO_INTERVAL = "too few sentences for an interval"
_NO_UNTRAINED = "the untrained model was not asked the same"
_MODEL = Column("model", TEXT, "the model's name")
_WEIGHTING = Column("weighting", TEXT, "as in `heads`")
_DIRECTION = listed(DIRECTIONS)


def _interval(name: str, meaning: str, null: str, unit: str = "0..1") -> tuple[Column, ...]:
    ends = interval_ends(name, "sentences", unit, _NO_INTERVAL)
    return (Column(name, F64, meaning, unit, null), *ends)


ANSWERS = Table(
    "answers",
    "one row per model, trained or not, sentence x weighting x question: who is right",
    (
        _MODEL,
        Column("who", TEXT, "trained: the model itself; untrained: with weights drawn anew"),
        Column("prompt_id", TEXT, "the sentence, by its id in the set"),
        _WEIGHTING,
        Column("phenomenon", TEXT, "what the two words are to each other"),
        Column("direction", TEXT, _DIRECTION),
        Column("query", I16, "the word at which is asked, from 0", "words"),
        Column("offset", I16, "from there to the right word; negative: before it", "words"),
        Column("n_candidates", I16, "words that could be answered", "words"),
        Column(
            "right",
            pa.list_(FLAG),
            "whether each head, block after block, looks at the right word more than at any other",
        ),
        Column(
            "above_distractor",
            pa.list_(FLAG),
            "whether each head looks at the right word more than at the distractor",
            null="the sentence has none",
        ),
    ),
)
PHENOMENA = Table(
    "phenomena",
    "one row per weighting x phenomenon x direction: the head that finds the word best, chosen on "
    "one half of the sentences and tested on the other",
    (
        _MODEL,
        _WEIGHTING,
        Column("phenomenon", TEXT, "what the two words are to each other"),
        Column("direction", TEXT, _DIRECTION),
        Column("block", I16, "block of the best head", "blocks", _FEW),
        Column("head", I16, "the best head", "heads", _FEW),
        Column("first_half_accuracy", F64, "where it was chosen: too high", "0..1", _FEW),
        *_interval("accuracy", "on the other half", _FEW),
        Column("offset", I16, "the best fixed offset, chosen likewise", "words", _FEW),
        Column("offset_first_half_accuracy", F64, "where it was chosen", "0..1", _FEW),
        *_interval("offset_accuracy", "of that offset on the other half", _FEW),
        *_interval("over_offset", "accuracy less that of the offset", _FEW, "-1..1"),
        Column(
            "untrained_first_half_accuracy",
            F64,
            "of the untrained model's best head, where it was chosen",
            "0..1",
            _NO_UNTRAINED,
        ),
        *_interval("untrained_accuracy", "of that head on the other half", _NO_UNTRAINED),
        *_interval("over_untrained", "accuracy less that of it", _NO_UNTRAINED, "-1..1"),
        *_interval(
            "above_distractor",
            "share of questions with a distractor in which the right word gets more than it",
            "no question of the other half has a distractor",
        ),
        Column("n_questions", I32, "questions of the other half", "questions"),
        Column("n_distractors", I32, "of which so many have a distractor", "questions"),
        Column("n_sentences", I32, "sentences of both halves", "sentences"),
        Column("reason", TEXT, "why there is no number", null="there is one"),
    ),
)
PREDICTED = {
    "word": "the later word, given the text before it; the sum over its tokens",
    "rest": "the text behind it to the sentence's end; the mean over its tokens",
}
_PREDICTED = listed(PREDICTED)
WORD_LOSSES = Table(
    "word_losses",
    "one row per sentence x question x text predicted: what is lost without each head",
    (
        _MODEL,
        Column("prompt_id", TEXT, "the sentence, by its id in the set"),
        Column("phenomenon", TEXT, "what the two words are to each other"),
        Column("direction", TEXT, _DIRECTION),
        Column("query", I16, "the later word, from 0", "words"),
        Column("offset", I16, "from there to the earlier one", "words"),
        Column("predicted", TEXT, _PREDICTED),
        Column(
            "change_bits",
            pa.list_(F32),
            "by how much less likely that is, with each head's mean in its place, block after "
            "block; negative: more likely",
            "bits",
        ),
    ),
)
_ALONE = "its block has no other head, or there is no number"
_UNMEASURED = "as `reason` says"
PHENOMENON_ABLATION = Table(
    "phenomenon_ablation",
    "one row per row of `phenomena` x text predicted: what the model loses, on the half of the "
    "sentences that did not choose it, with the mean of the best head in its place",
    (
        _MODEL,
        _WEIGHTING,
        Column("phenomenon", TEXT, "what the two words are to each other"),
        Column("direction", TEXT, _DIRECTION),
        Column("predicted", TEXT, _PREDICTED),
        Column("block", I16, "block of the best head", "blocks", _FEW),
        Column("head", I16, "the best head", "heads", _FEW),
        *_interval("change_bits", "by how much less likely that is", _UNMEASURED, "bits"),
        *_interval(
            "others_bits",
            "the same without another head of its block, mean over all of those",
            _ALONE,
            "bits",
        ),
        *_interval("above_others_bits", "the first less the second", _ALONE, "bits"),
        Column(
            "share_below",
            F64,
            "share of all other heads of the model without which less is lost; 0.5 by chance",
            "0..1",
            _UNMEASURED,
        ),
        Column(
            "n_questions",
            I32,
            "questions of the other half, of sentences on which heads were ablated",
            "questions",
        ),
        Column("n_sentences", I32, "sentences of these", "sentences"),
        Column("reason", TEXT, "why there is no number", null="there is one"),
    ),
)
CLAIMS = {
    "broad": "the share of even attention's entropy, mean over heads and prompts (`heads`)",
    "syntactic": "accuracy of each block's best head in the four dependencies, on the other half",
    "semantic": "the same for pronouns and what they mean",
}
DEPTHS = Table(
    "depths",
    "one row per weighting x claim about depth x direction: thirds of the blocks compared; none "
    "for fewer than three blocks",
    (
        _MODEL,
        _WEIGHTING,
        Column("claim", TEXT, listed(CLAIMS)),
        Column("direction", TEXT, _DIRECTION, null="nothing is asked"),
        Column("third", TEXT, "which third is said to have more: early, middle or deep"),
        Column("early", F64, "mean over the first third of the blocks", "0..1"),
        Column("middle", F64, "mean over the second", "0..1"),
        Column("deep", F64, "mean over the last", "0..1"),
        *(
            column
            for other in ("early", "middle", "deep")
            for column in _interval(
                f"above_{other}", f"that third less the {other} one", "it is that one", "-1..1"
            )
        ),
        Column("n", I32, "questions, or prompts", "questions"),
        Column("n_sentences", I32, "sentences, or prompts", "sentences"),
    ),
)
