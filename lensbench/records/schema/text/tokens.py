"""Tables of a comparison of tokenizers: what each makes of texts, and of one in many languages."""

from __future__ import annotations

from lensbench.records.schema.declare import F64, I16, I32, TEXT, Column, Kind, Table, interval_ends
from lensbench.records.schema.every import PROBLEMS

# What becomes of a character; each has one of these.
FATES = {
    "whole": "one token holds it, alone or with others",
    "single_bytes": "each byte of it is a token of its own",
    "split": "several tokens share it otherwise",
    "unknown": "the unknown token stands for it, alone or with others",
    "dropped": "no token stands for it",
}
# Of a character that does not come back: what it differs in.
LOSSES = {
    "lost_case": "capitals",
    "lost_form": "how a character is put together, such as a Korean syllable",
    "lost_marks": "accents, vowel signs and other marks",
    "lost_spaces": "white space",
    "lost_other": "the rest, such as what became unknown",
}
_MODEL = Column("model", TEXT, "the model whose tokenizer it is")
_EXAMPLE = "it is one of the texts that were given, or an example"
_LANGUAGE = Column("language", TEXT, "of the parallel text (BCP 47)", null=_EXAMPLE)
_ARTICLE = Column("article", I16, "of the parallel text, from 1", null=_EXAMPLE)
_UNSPACED = "its script puts no spaces between words"
_FEW = "too few articles for an interval"


def _interval(name: str, meaning: str, unit: str, null: str = "") -> tuple[Column, ...]:
    none = f"{null}; {_FEW}" if null else _FEW
    ends = interval_ends(name, "articles", unit, none)
    return (Column(name, F64, meaning, unit, null), *ends)


TOKENS = Table(
    "tokens",
    "one row per model x text, tokens put around a text left out",
    (
        _MODEL,
        Column("text_id", TEXT, "the text"),
        _LANGUAGE,
        Column("script", TEXT, "that of the language", null=_EXAMPLE),
        _ARTICLE,
        Column("n_characters", I32, "Unicode code points", "characters"),
        Column("n_solid", I32, "of which no white space", "characters"),
        Column("n_bytes", I32, "in UTF-8", "bytes"),
        Column(
            "n_words",
            I32,
            "stretches without white space (or Ethiopic wordspace), punctuation being part of the "
            "word it stands at",
            "words",
            _UNSPACED,
        ),
        Column("n_tokens", I32, "all of them", "tokens"),
        Column("n_unknown", I32, "of which the unknown token", "tokens"),
        Column("n_unread", I32, "of `n_solid`: the unknown token or none holds it", "characters"),
        Column(
            "n_byte_tokens",
            I32,
            "of which bytes: what is no whole character, or a byte that the vocabulary falls back "
            "on",
            "tokens",
        ),
        Column("n_special", I32, "of which special ones, which the text spells", "tokens"),
        Column("decoded", TEXT, "what its tokens give again", null="it is of the parallel text"),
        Column(
            "n_lost",
            I32,
            "characters that do not come back in their order when the tokens are decoded (length "
            "less that of the longest common subsequence); the five that follow are its parts, by "
            "what has to be made alike in both texts, one after the other",
            "characters",
        ),
        *(Column(f"n_{name}", I32, what, "characters") for name, what in LOSSES.items()),
        Column("n_added", I32, "characters that come back and were not there", "characters"),
    ),
)
TOKEN_SCRIPTS = Table(
    "token_scripts",
    "one row per model x text x script: what becomes of its characters",
    (
        _MODEL,
        Column("text_id", TEXT, "the text"),
        _LANGUAGE,
        _ARTICLE,
        Column(
            "script",
            TEXT,
            "of these characters (Unicode's property); what belongs to several is left out: "
            "spaces, digits, most punctuation",
        ),
        Column("n_characters", I32, "its characters", "characters"),
        *(Column(f"n_{fate}", I32, what, "characters") for fate, what in FATES.items()),
    ),
)
PIECES = Table(
    "pieces",
    "one row per model x text x token, but for the parallel text",
    (
        _MODEL,
        Column("text_id", TEXT, "the text"),
        Column("position", I32, "from 0", "tokens"),
        Column("token_id", I32, "in the vocabulary"),
        Column("token", TEXT, "as the vocabulary writes it"),
        Column("shown", TEXT, "readable: bytes as what they spell, or as <0xE0>"),
        Column(
            "token_kind",
            TEXT,
            "text; byte: one byte of a character; bytes: several that are no whole characters; "
            "unknown; special",
        ),
        Column("first_character", I32, "where it stands in the text, from 0", "characters"),
        Column("end_character", I32, "the character behind it", "characters"),
    ),
)
GIVEN = Table(
    "token_texts",
    "one row per text that was given, or example",
    (Column("text_id", TEXT, "the text"), Column("text", TEXT, "as it was given")),
)
GAPS = Table(
    "gaps",
    "one row per model x language of the parallel text, and one per model x script",
    (
        _MODEL,
        Column(
            "language",
            TEXT,
            "BCP 47",
            null="a script: the mean over its languages here, English left out",
        ),
        Column("name", TEXT, "of the language in English", null="a script"),
        Column("script", TEXT, "of the language"),
        Column("n_languages", I16, "languages here", "languages"),
        *_interval("gap", "tokens over those of the same articles in English", "ratio"),
        Column("bytes_gap", F64, "the same of UTF-8 bytes: the gap of one token a byte", "ratio"),
        *_interval("tokens_per_word", "fertility", "tokens", _UNSPACED),
        Column("characters_per_token", F64, "mean over tokens", "characters"),
        Column("bytes_per_token", F64, "mean over tokens", "bytes"),
        Column("unknown_share", F64, "tokens that are the unknown one", "0..1"),
        Column(
            "unread_share",
            F64,
            "characters, white space left out, that the unknown token or none holds: where "
            "many are, few tokens are no thrift",
            "0..1",
        ),
        Column("byte_share", F64, "tokens that are bytes (`n_byte_tokens`)", "0..1"),
        Column("lost_share", F64, "characters that do not come back when decoded", "0..1"),
        Column("n_articles", I16, "articles", "articles"),
    ),
)
SCRIPT_FATES = Table(
    "script_fates",
    "one row per model x script of the parallel text: what becomes of its characters",
    (
        _MODEL,
        Column("script", TEXT, "as in `token_scripts`"),
        Column("n_characters", I32, "its characters in all languages", "characters"),
        *(
            column
            for fate, what in FATES.items()
            for column in (
                _interval(f"{fate}_share", what, "0..1")
                if fate == "single_bytes"
                else (Column(f"{fate}_share", F64, what, "0..1"),)
            )
        ),
    ),
)
_NO_CONFIG = "no config.json beside the tokenizer says it"
COSTS = Table(
    "token_costs",
    "one row per model x language: what the whole parallel text costs",
    (
        _MODEL,
        Column("language", TEXT, "BCP 47"),
        Column("n_tokens", I32, "of all articles", "tokens"),
        Column(
            "context_ratio",
            F64,
            "over the model's context; above 1 it does not fit",
            "ratio",
            _NO_CONFIG,
        ),
        Column(
            "attention_flops",
            F64,
            "what of a forward pass grows with the square of a text: 4 · n · min(n, window) · "
            "heads · head size, summed over blocks",
            "FLOPs",
            _NO_CONFIG,
        ),
        Column("attention_ratio", F64, "over that of English", "ratio", _NO_CONFIG),
        Column("tokens_per_page", F64, "of a page of the English text", "tokens"),
        Column("price_per_page", F64, "at the price that was given", "its unit", "none was given"),
    ),
)

KINDS = (
    Kind(
        "tokens",
        "`lensbench tokens --out`",
        (TOKENS, TOKEN_SCRIPTS, PIECES, GIVEN, GAPS, SCRIPT_FATES, COSTS, PROBLEMS),
    ),
)
