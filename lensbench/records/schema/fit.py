"""Tables of a fitted lens: the text that it saw, and what it is worth on text that it did not."""

from __future__ import annotations

from lensbench.records.schema.declare import F64, I16, I32, TEXT, Column, Entry, Kind, Table
from lensbench.records.schema.every import PROBLEMS

_NO_INTERVAL = "too few documents for one"


def _measured(name: str, meaning: str, unit: str, null: str = "") -> tuple[Column, ...]:
    """A number with its interval; `null`: what null means of the number itself."""
    why = f"{null}, or {_NO_INTERVAL}" if null else _NO_INTERVAL
    ends = (
        Column(f"{name}_{end}", F64, "of its 95 % interval over documents", unit, why, 3)
        for end in ("low", "high")
    )
    return (Column(name, F64, meaning, unit, null, 3 if null else 1), *ends)


FIT_DOCUMENTS = Table(
    "fit_documents",
    "one row per document of the corpus that was read",
    (
        Column("model", TEXT, "the model's name"),
        Column("document", TEXT, "sha256 of its text"),
        Column("source", TEXT, "where it stands in the corpus"),
        Column(
            "part",
            TEXT,
            "fit (the maps), choose (which of them), test (the figures) or "
            "other (those on another corpus)",
        ),
        Column("n_tokens", I32, "tokens that were read, from its beginning", "tokens"),
    ),
)

FIT_QUALITY = Table(
    "fit_quality",
    "one row per reading x layer, over the tokens of the part `test` but each document's first",
    (
        Column("model", TEXT, "the model's name"),
        Column(
            "reading",
            TEXT,
            "fitted; linear (the linear lens of the same text, of another one); shifted (of a "
            "jacobian lens: with a shift that takes the mean state to the mean one of the last "
            "layer); final (the logit lens); or a control: calibration (scale and bias alone), "
            "shuffled (ridge, fitted to the targets of other tokens) or untrained (ridge, from the "
            "states of a model of this shape with random weights; no row at the last layer)",
        ),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column("strength", F64, "of the ridge", "share of the mean variance", "no fit"),
        *_measured("kl_bits", "KL(model || reading), mean over tokens", "bits"),
        *_measured("top1_agreement", "tokens where the model has the same top token", "0..1"),
        *_measured("marginal_kl_bits", "KL of the distributions averaged over tokens", "bits"),
        *_measured(
            "calibration_error",
            "expected calibration error of the top token as a guess of the text's next, 10 bins",
            "0..1",
        ),
        *_measured(
            "calibration_share",
            "how much of what the fitted lens gains over the logit lens scale and bias alone gain: "
            "(KL of final - KL of calibration) / (KL of final - KL of fitted)",
            "0..1; beyond it where one of the two loses",
            "another reading, or the interval of the gain holds 0",
        ),
        Column("n_tokens", I32, "tokens", "tokens"),
        Column("n_documents", I32, "documents", "documents"),
    ),
)

TRANSFER = Table(
    "transfer",
    "one row per variant of a model x lens x reading x layer x document",
    (
        Column("model", TEXT, "the variant that was read"),
        Column("lens", TEXT, "linear, tuned, ...: how lenses were fitted, to the same text"),
        Column(
            "reading",
            TEXT,
            "own (fitted to this variant), first (fitted to the first one) or final (the logit "
            "lens)",
        ),
        Column("layer", I16, "0 = embedding, i = after block i - 1; below the last", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column("document", TEXT, "sha256 of its text, to which no lens was fitted"),
        Column("kl_bits", F64, "KL(variant || reading), mean over the document's tokens", "bits"),
        Column("top1_agreement", F64, "tokens where the variant has the same top token", "0..1"),
        Column("n_tokens", I32, "tokens of the document, its first left out", "tokens"),
    ),
)

FIT_ALSO = Table(
    "fit_also",
    "the figures of `fit_quality` on another corpus (`--also`): one row per reading x layer, over "
    "its tokens but each document's first",
    FIT_QUALITY.columns,
)

_ALIKE = "one of the two is the same of all directions"
_NO_CORRELATION = f"{_ALIKE}, few directions, or it is 1 or -1"

FIT_FIDELITY = Table(
    "fit_fidelity",
    "causal fidelity: one row per lens x layer, of removing directions from the layer's states",
    (
        Column("model", TEXT, "the model's name"),
        Column("reading", TEXT, "the lens, as in `fit_quality`; random: a rotation by chance"),
        Column("layer", I16, "0 = embedding, i = after block i - 1", "states"),
        Column("depth", F64, "layer / n_layers", "0..1"),
        Column(
            "spearman",
            F64,
            "over directions, of what removing one does to the lens and to the model: KL(whole || "
            "without it), means over tokens",
            "-1..1",
            _ALIKE,
        ),
        Column("spearman_low", F64, "of its 95 % interval", "-1..1", _NO_CORRELATION),
        Column("spearman_high", F64, "of its 95 % interval", "-1..1", _NO_CORRELATION),
        Column(
            "partial_spearman",
            F64,
            "the same given the variance that goes with each direction",
            "-1..1",
            _ALIKE,
        ),
        Column("partial_spearman_low", F64, "of its 95 % interval", "-1..1", _NO_CORRELATION),
        Column("partial_spearman_high", F64, "of its 95 % interval", "-1..1", _NO_CORRELATION),
        Column("n_directions", I32, "directions, drawn from the principal ones", "directions"),
        Column("n_tokens", I32, "tokens of the part `test`, the first of some", "tokens"),
    ),
)

KINDS = (
    Kind(
        "lens_fit",
        "`lensbench fit`",
        (FIT_DOCUMENTS, FIT_QUALITY, PROBLEMS),
        optional=(FIT_ALSO, FIT_FIDELITY),
        entries=(
            Entry(
                "corpus",
                "its `name` and `sha256`, `n_documents` in all, and `n_with_facts` left out, which "
                "state `n_facts` different facts; `written` (seed, temperature, window) where the "
                "model wrote it itself, `hub` (data set, revision, file and its hash, column, "
                "rows) where it is of the hub",
                type="object",
            ),
            Entry(
                "also",
                "the corpus of the table `fit_also`, as `corpus`",
                absent="measured on one corpus only",
                type="object",
            ),
            Entry(
                "training",
                "by `layer`: the mean KL(model || lens) on the part `choose` of the map it began "
                "with (`start_kl_bits`) and of the one that was kept (`kl_bits`), after how many "
                "`steps` (0: the start), and at which step it was `broken` by NaN or Inf",
                absent="the lens was not trained",
                type="array",
            ),
            Entry(
                "jacobian",
                "how many texts the Jacobians are a mean over (`n_texts`), with how many tokens "
                "(`n_tokens`): the first ones of the part `fit` that have `shortest_tokens`",
                absent="no Jacobian lens",
                type="object",
            ),
        ),
    ),
    Kind(
        "lens_transfer",
        '`lensbench run` on an analysis of kind "transfer"',
        (TRANSFER, PROBLEMS),
    ),
)
