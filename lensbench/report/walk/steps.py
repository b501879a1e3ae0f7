"""The steps of the page in words, for this model: of each a sentence, the formula, the shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lensbench.report.walk.numbers import Architecture, Attention, Positions, Walk

_STATE = "<i>x</i>"
_SIGNS = (
    "u is the head's column of the token with the weight of the final norm, ρ the number by which "
    "that norm divides the last state at this position: held fixed, the logit is a plain sum."
)


@dataclass(frozen=True)
class Step:
    """A step as it stands on the page before anything is picked; `key` names its drawing."""

    key: str
    title: str
    sentence: str
    formula: Markup
    shapes: Sequence[tuple[str, str]]
    note: str = ""  # what the formula's signs mean


def steps(walk: Walk) -> Iterator[Step]:
    """From the text to the token that is said, and back."""
    yield from _into_the_model(walk)
    yield from _through_the_blocks(walk)
    yield from _out_of_the_model(walk)


def _into_the_model(walk: Walk) -> Iterator[Step]:
    own, n = walk.architecture, len(walk.tokens)
    yield Step(
        "pieces",
        "The text in pieces",
        f"A tokenizer ({own.tokenizer}) cuts the text into {n} pieces of its vocabulary; from here "
        "on the model knows them by their numbers only.",
        Markup("text → (<i>t</i><sub>0</sub>, …, <i>t</i><sub>n−1</sub>)"),
        [("t", shape(n)), ("vocabulary", shape(own.d_vocab))],
    )
    yield Step(
        "embedding",
        "Numbers become vectors",
        f"Each number picks one row of a table, a vector of {own.d_model:,} numbers: all that the "
        "model knows of the piece before it has looked around.",
        _embedded(walk),
        [("W_E", shape(own.d_vocab, own.d_model)), ("x₀", shape(n, own.d_model))],
    )
    yield _position_step(walk.positions, walk)


def _embedded(walk: Walk) -> Markup:
    own = walk.embedding
    scale = "" if abs(own.scale - 1) < 1e-3 else f"{own.scale:.5g} · "
    places = " + <i>W</i><sub>pos</sub>[<i>p</i>]" if own.position_norms is not None else ""
    rest = " + what the family does to it" if own.rest > 1e-4 else ""
    return Markup(f"{_STATE}<sub>0</sub> = {scale}<i>W</i><sub>E</sub>[<i>t</i>]{places}{rest}")


_POSITIONS = {
    "learned": "This model has no rotary angles: each position has a learned vector of its own, "
    "which is added to the piece's.",
    "alibi": "This model has no rotary angles and adds no vector: each head takes off its scores "
    "what grows with the distance (ALiBi).",
    "unseen": "TransformerLens shows no rotary angles of this model, so none are drawn here.",
}


def _position_step(positions: Positions, walk: Walk) -> Step:
    title, n = "Where a piece stands", len(walk.tokens)
    if positions.kind != "rotary":
        formula = {
            "learned": "<i>x</i><sub>0</sub> = <i>W</i><sub>E</sub>[<i>t</i>] + "
            "<i>W</i><sub>pos</sub>[<i>p</i>]",
            "alibi": "score − <i>m</i><sub>head</sub> · (query − key)",
        }.get(positions.kind, "–")
        shapes = [("W_pos[p]", shape(n, walk.architecture.d_model))]
        learned = positions.kind == "learned"
        return Step(
            "positions", title, _POSITIONS[positions.kind], Markup(formula), shapes * learned
        )
    n_pairs = positions.rotations[0].angles.shape[1]
    partner = "2<i>i</i> + 1" if positions.rotations[0].adjacent else "<i>i</i> + " + str(n_pairs)
    first = "2<i>i</i>" if positions.rotations[0].adjacent else "<i>i</i>"
    turned = (
        f"(<i>q</i><sub>{first}</sub>, <i>q</i><sub>{partner}</sub>) turned by "
        "<i>p</i> · <i>θ</i><sub>i</sub>, and so are keys"
    )
    return Step(
        "positions",
        title,
        "Before a query meets a key, each pair of their numbers is turned by an angle that grows "
        "with the position, so that their product says how far apart the two stand.",
        Markup(turned),
        [("angles", shape(n, n_pairs))],
    )


def _through_the_blocks(walk: Walk) -> Iterator[Step]:
    own, n = walk.architecture, len(walk.tokens)
    capped = "" if walk.attention.cap is None else f", capped at ±{walk.attention.cap:g}"
    sink = "; a sink that is no token takes the rest" if walk.attention.sinks else ""
    yield Step(
        "attention",
        "Tokens look at tokens",
        "Each head compares a token's query with the keys of the tokens up to it; the softmax of "
        "these scores says how much of each token's value it carries over.",
        Markup(
            f"weight = softmax(score), score = {_scaled(walk.attention)}"
            f"{capped}, −∞ for what comes later{sink}"
        ),
        [("scores", shape(own.n_layers, own.n_heads, n, n))],
        "q · k is the length of the query times that of the key times the cosine between them.",
    )
    read = "x" if own.parallel else "x + a"
    yield Step(
        "writes",
        "What attention and MLP write",
        "Attention and MLP of a block each write one vector into a token's stream; the tokens "
        "whose logits a vector raises most say what it is for.",
        Markup(
            f"<i>a</i> = {_written('attention', 'x', own)}, "
            f"<i>m</i> = {_written('MLP', read, own)}; to the logit of <i>t</i>: "
            "<i>m</i> · <i>u</i><sub>t</sub> / <i>ρ</i>"
        ),
        [("a, m", shape(own.n_layers, n, own.d_model))],
        f"{_SIGNS} Early blocks write for later ones, so what they raise is often odd.",
    )
    yield Step(
        "stream",
        "The residual stream",
        "Nothing is overwritten: behind a block stands what came in plus the two vectors that it "
        "wrote, so that the last state is the embedding plus all writes.",
        Markup(
            f"{_STATE}<sub>b+1</sub> = {_STATE}<sub>b</sub> + <i>a</i><sub>b</sub> + "
            "<i>m</i><sub>b</sub>"
        ),
        [("x", shape(own.n_layers + 1, n, own.d_model))],
    )
    yield Step(
        "lens",
        "If it stopped here",
        "The logit lens: at every layer the state goes through the model's own final norm and "
        "head, as if the model ended there.",
        Markup(f"softmax({_head(own, 'layer')})"),
        [("readings", shape(own.n_layers + 1, n, own.d_vocab))],
    )


def _scaled(attention: Attention) -> str:
    """The product of a query and a key as the scores have it."""
    product, scale = "<i>q</i> · <i>k</i>", attention.scale
    if scale is None:
        return f"{product}, scaled"
    if abs(scale * attention.d_head**0.5 - 1) < 1e-6:
        return f"{product} / √{attention.d_head}"
    return f"{scale:.4g} · {product}"


def _out_of_the_model(walk: Walk) -> Iterator[Step]:
    own = walk.architecture
    n_parts = walk.path.effects.shape[1]
    scale, cap = _scale(own), own.soft_cap
    yield Step(
        "logits",
        "A number for every token",
        f"Behind the last token the head gives each of {own.d_vocab:,} tokens one number, its "
        "logit: the larger, the likelier.",
        Markup(f"<i>z</i> = {_head(own, 'L')}"),
        [("W_U", shape(own.d_model, own.d_vocab)), ("z", shape(own.d_vocab))],
    )
    yield Step(
        "probabilities",
        "Probabilities",
        "Logits divided by a temperature become probabilities by the softmax; top-p keeps the "
        "likeliest tokens that together reach p and shares out what is left anew.",
        Markup(
            "<i>p</i><sub>t</sub> = e<sup><i>z</i><sub>t</sub>/<i>T</i></sup> / "
            "Σ<sub>j</sub> e<sup><i>z</i><sub>j</sub>/<i>T</i></sup>"
        ),
        [("p", shape(own.d_vocab))],
    )
    yield Step(
        "draw",
        "One token is drawn",
        "On a line from 0 to 1 each kept token has a stretch as long as its probability; a random "
        "number u falls on one of them, and that token is said.",
        Markup(
            "the first <i>t</i> with <i>p</i><sub>1</sub> + … + <i>p</i><sub>t</sub> > <i>u</i>"
        ),
        [("u", "one number")],
    )
    yield Step(
        "path",
        "And its path back",
        "The logit of a token is a sum over all that was written into the stream: who spoke for "
        "it, and who against.",
        Markup(
            f"<i>z</i><sub>t</sub> = {scale}Σ<sub>parts</sub> part · <i>u</i><sub>t</sub> / "
            "<i>ρ</i> + biases"
            + ("" if cap is None else f", then {cap:g} · tanh(<i>z</i> / {cap:g})")
        ),
        [("parts", shape(n_parts, own.d_model))],
        _SIGNS,
    )


def _written(name: str, read: str, own: Architecture) -> str:
    """What a sub-layer adds to the stream."""
    made = f"{name}(norm(<i>{read}</i>))"
    made = f"norm({made})" if own.norms_behind else made
    return made if own.write_scale == 1 else f"{own.write_scale:.4g} · {made}"


def _scale(own: Architecture) -> str:
    return "" if own.logit_scale == 1 else f"{own.logit_scale:.4g} · "


def _head(own: Architecture, layer: str) -> str:
    """From a state to logits, as the model's own head makes them."""
    product = f"<i>W</i><sub>U</sub> · {own.norm}norm({_STATE}<sub>{layer}</sub>)"
    product += " + <i>b</i>" if own.head_bias else ""
    if _scale(own):
        product = f"{_scale(own)}({product})" if own.head_bias else _scale(own) + product
    cap = own.soft_cap
    return product if cap is None else f"{cap:g} · tanh({product} / {cap:g})"


def shape(*sizes: int) -> str:
    """Such as 30 × 8 × 576."""
    return " × ".join(f"{size:,}" for size in sizes)
