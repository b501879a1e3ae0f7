"""Tables of embeddings: cosines of texts, what people say of words, and a word's senses."""

from __future__ import annotations

from lensbench.records.schema.declare import (
    F64,
    I16,
    I32,
    TEXT,
    Column,
    Entry,
    Kind,
    Table,
    interval_ends,
    listed,
)
from lensbench.records.schema.every import PROBLEMS

CORRECTIONS = {
    "none": "the vectors as they are",
    "centred": "less their mean",
    "all_but_the_top": "less their mean and what they have along their first d / 100 principal "
    "directions (Mu & Viswanath 2018)",
}
SPLITS = {
    "senses": "a word of two senses, a group each",
    "subjects": "a word of one sense, in sentences about two subjects",
    "halves": "a word of one sense, two halves that hold as many sentences of each subject",
}
READ = {
    "trained": "the model",
    "untrained": "the same architecture with weights drawn anew",
}
NEAR = 0.05  # of what was published: numbers rounded to two digits may be that far off
_MODEL = Column("model", TEXT, "the model's name")
_FEW = "too few for an interval"
_NO_ANGLE = "one of the vectors is zero, so that it has no angle"
_CORRECTION = Column("correction", TEXT, listed(CORRECTIONS))


def _ends(name: str, over: str) -> tuple[Column, Column]:
    return interval_ends(name, over, "", _FEW)


PAIRS = Table(
    "embedding_pairs",
    "one row per pair of texts",
    (
        _MODEL,
        Column("pair_id", TEXT, "the pair"),
        Column("a", TEXT, "a text"),
        Column("b", TEXT, "the other"),
        Column("published", F64, "cosine said elsewhere", "-1..1", "nobody has said one"),
        Column("cosine", F64, "of the two vectors", "-1..1", _NO_ANGLE),
        Column(
            "centred_cosine",
            F64,
            "less the mean of shipped words (of two words) or sentences (of other texts)",
            "-1..1",
            _NO_ANGLE,
        ),
        Column(
            "all_but_the_top_cosine", F64, "less their principal directions too", "-1..1", _NO_ANGLE
        ),
        Column("n_tokens_a", I32, "special ones left out", "tokens"),
        Column("n_tokens_b", I32, "special ones left out", "tokens"),
    ),
)
GRID = Table(
    "embedding_grid",
    "one row per text of the pairs x text of the pairs",
    (
        _MODEL,
        Column("a", TEXT, "a text"),
        Column("b", TEXT, "another, or the same"),
        Column("cosine", F64, "of the two vectors", "-1..1", _NO_ANGLE),
    ),
)
MAP = Table(
    "embedding_map",
    "one row per text of the pairs, and per shipped word and sentence: its place in the plane",
    (
        _MODEL,
        Column("text", TEXT, "the text"),
        Column("origin", TEXT, "pair; words or sentences (shipped)"),
        Column("norm", F64, "length of the vector"),
        Column("pca_1", F64, "along the first principal component of all these texts"),
        Column("pca_2", F64, "along the second"),
        Column("umap_1", F64, "place that UMAP finds", null="the run did not ask for UMAP"),
        Column("umap_2", F64, "place that UMAP finds", null="the run did not ask for UMAP"),
    ),
)
ANISOTROPY = Table(
    "anisotropy",
    "one row per kind of shipped text x correction",
    (
        _MODEL,
        Column("texts", TEXT, "words or sentences (shipped)"),
        _CORRECTION,
        Column(
            "mean_cosine",
            F64,
            "of two different texts, over all pairs within each of two halves; the correction of a "
            "half is made of the other one",
            "-1..1",
        ),
        *_ends("mean_cosine", "texts (jackknife)"),
        Column("n_texts", I32, "shipped texts that the encoder reads whole", "texts"),
    ),
)
RATED = Table(
    "rated",
    "one row per set of pairs that people have rated x correction (made of shipped words)",
    (
        _MODEL,
        Column("rated_set", TEXT, "wordsim353, simlex999 or a file"),
        _CORRECTION,
        Column(
            "spearman",
            F64,
            "correlation of ranks of cosines and mean ratings",
            "-1..1",
            "all cosines, or all ratings, are equal",
        ),
        *_ends("spearman", "pairs (bootstrap)"),
        Column("gain", F64, "over no correction", "-2..2", "as of `spearman`"),
        *_ends("gain", "pairs (bootstrap)"),
        Column("n_pairs", I32, "pairs", "pairs"),
        Column("n_same", I32, "of which a word with itself", "pairs"),
        Column("n_repeated", I32, "of which stand there before", "pairs"),
    ),
)
SENSES = Table(
    "senses",
    "one row per condition x word x split x layer x correction",
    (
        _MODEL,
        Column("condition", TEXT, listed(READ)),
        Column("word", TEXT, "the word; its vector is the mean over its tokens"),
        Column("split", TEXT, listed(SPLITS)),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column(
            "correction",
            TEXT,
            "none; centred: less the mean over all words of the run, each counting once",
        ),
        Column("within_cosine", F64, "mean of two sentences of one group", "-1..1"),
        Column("between_cosine", F64, "mean of two of different groups", "-1..1"),
        Column("separation", F64, "the first less the second; 0 by chance", "-2..2"),
        Column(
            "accuracy",
            F64,
            "sentences nearer to their own group's centroid, one of each group being left out; a "
            "tie counts half, chance is .5",
            "0..1",
        ),
        Column("n_sentences", I16, "of both groups", "sentences"),
    ),
)
CONES = Table(
    "sense_cones",
    "one row per condition x layer",
    (
        _MODEL,
        Column("condition", TEXT, "as in `senses`"),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("other_words_cosine", F64, "mean of two different words", "-1..1"),
    ),
)

KINDS = (
    Kind(
        "embeddings",
        "`lensbench embed --out`, `lensbench run` of an embeddings study",
        (PAIRS, GRID, MAP, ANISOTROPY, RATED, PROBLEMS),
    ),
    Kind(
        "senses",
        "`lensbench embed --contextual --out`, `lensbench run` of an embeddings study",
        (SENSES, CONES, PROBLEMS),
        entries=(
            Entry(
                "read",
                "`sentences` read, of how many `words`; `both_ways`: whether the model sees what "
                "stands behind a word",
                type="object",
            ),
        ),
    ),
)
