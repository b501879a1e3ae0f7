"""Tables of sampling: what settings make of the next token and of texts, and tasks asked twice."""

from __future__ import annotations

from lensbench.records.schema.declare import (
    F64,
    FLAG,
    I16,
    I32,
    TEXT,
    Column,
    Kind,
    Table,
    listed,
)
from lensbench.records.schema.every import PROBLEMS

SHOTS = {
    "input": "the input alone: what the form of the question gives (control)",
    "instruction": "zero-shot: the instruction and the input",
    "examples": "few-shot: examples and the input, without the instruction",
    "shuffled": "the same examples with their answers exchanged (control)",
    "instruction+examples": "the instruction, examples and the input",
    "chat+instruction": "as `instruction`, as a user's turn of the chat template",
    "chat+instruction+examples": "as `instruction+examples`, as a user's turn of the chat template",
}
OWN, GREEDY = "T=1", "greedy"  # settings by their names: the model's own distribution; no chance
_MODEL = Column("model", TEXT, "the model's name")
_PROMPT = Column("prompt_id", TEXT, "the prompt")
_SETTING = Column("setting", TEXT, "by its name, as in `sampling_settings`")
_NO_WORDS = "no text has so many words"

SETTINGS = Table(
    "sampling_settings",
    "one row per setting",
    (
        Column(
            "setting", TEXT, "its name, what is off left out; T=1 is the model's own distribution"
        ),
        Column("temperature", F64, "logits over it; 0: the likeliest token"),
        Column("top_k", I32, "only so many likeliest tokens; 0: all", "tokens"),
        Column("top_p", F64, "only the likeliest tokens that hold this probability", "0..1"),
        Column("min_p", F64, "only tokens at least this likely beside the likeliest", "0..1"),
        Column("repetition_penalty", F64, "of the logits of tokens that stood before"),
        Column("is_published", FLAG, "a sweet spot that is said elsewhere"),
        Column("is_written", FLAG, "texts of it are here"),
    ),
)
SAMPLED = Table(
    "sampled_prompts",
    "one row per prompt",
    (
        _PROMPT,
        Column("relation", TEXT, "the kind of prompt, as its set has it"),
        Column("prompt", TEXT, "as it was read"),
        Column("n_tokens", I32, "of the prompt", "tokens"),
        Column("is_continued", FLAG, "texts of it are here"),
    ),
)
FIRST = Table(
    "first_tokens",
    "one row per prompt x setting: the distribution that the next token is drawn from",
    (
        _MODEL,
        _PROMPT,
        _SETTING,
        Column("entropy_bits", F64, "of it", "bits, 0..log2(n_kept)"),
        Column(
            "effective_tokens",
            F64,
            "2 to the power of the entropy: a fair draw among so many is as uncertain",
            "tokens",
        ),
        Column("n_kept", I32, "tokens that can be drawn", "tokens"),
        Column("kept_prob", F64, "the model's own probability of these", "0..1"),
        Column("top_prob", F64, "of the likeliest, as it is drawn", "0..1"),
        Column("top_token", TEXT, "that one"),
        Column(
            "total_variation",
            F64,
            "half the sum of the differences to the model's own probabilities",
            "0..1",
        ),
    ),
)
TEXTS = Table(
    "sampled_texts",
    "one row per continued prompt x written setting x draw; a greedy text stands once for all",
    (
        _MODEL,
        _PROMPT,
        _SETTING,
        Column("draw", I16, "from 0; the same random numbers in every setting"),
        Column("text", TEXT, "what was written, without special tokens"),
        Column("n_tokens", I32, "written, the end token included", "tokens"),
        Column("n_words", I32, "of the text; characters of scripts without spaces", "words"),
        Column("finish_reason", TEXT, "stop: the model ended it; length: it was cut"),
        Column(
            "bits", F64, "-log2 of its probability under the model itself, temperature 1", "bits"
        ),
        Column(
            "repeated_share",
            F64,
            "of its runs of four words, those that stood before in it (Welleck et al. 2020)",
            "0..1",
            "it has fewer than four words",
        ),
    ),
)
SETS = Table(
    "sampled_sets",
    "one row per continued prompt x written setting: all draws together",
    (
        _MODEL,
        _PROMPT,
        _SETTING,
        Column("n_texts", I16, "draws; a greedy text counts as so many equal ones", "texts"),
        Column("n_tokens", I32, "of all of them", "tokens"),
        Column("bits", F64, "of all of them, as in `sampled_texts`", "bits"),
        Column(
            "distinct_1_share",
            F64,
            "different words over all words of all draws (Li et al. 2016)",
            "0..1",
            _NO_WORDS,
        ),
        Column("distinct_2_share", F64, "the same of runs of two words", "0..1", _NO_WORDS),
        Column(
            "self_bleu",
            F64,
            "mean BLEU of each draw beside the others (Zhu et al. 2018); 100: all alike",
            "0..100",
            "one draw, or a text without words",
        ),
        Column(
            "repeated_share", F64, "mean of that of the texts", "0..1", "no text has four words"
        ),
    ),
)
ASKED = Table(
    "shots",
    "one row per task x condition x item; the answer is the greedy one, up to its first line",
    (
        _MODEL,
        Column("task", TEXT, "the task"),
        Column("condition", TEXT, listed(SHOTS)),
        Column("given", TEXT, "the input"),
        Column("answer", TEXT, "the right one, as examples show it"),
        Column("said", TEXT, "the first line of the model's answer"),
        Column("is_answer", FLAG, "that line is the answer, case and punctuation aside"),
        Column("names_answer", FLAG, "the answer is in that line, and no other label is"),
        Column("n_prompt_tokens", I32, "of what was asked", "tokens"),
    ),
)

KINDS = (
    Kind(
        "sampling",
        "`lensbench sample --prompts`",
        (SETTINGS, SAMPLED, FIRST, TEXTS, SETS, ASKED, PROBLEMS),
    ),
)
