"""`walk`: one text through a whole model in one call, as numbers and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.checkpoints.config.shape import NO_LIMIT
from lensbench.errors import InputProblems, Problem
from lensbench.escape import visible
from lensbench.files import write_bytes
from lensbench.lens.gate import Identity, lens_identity, require
from lensbench.lens.result import read
from lensbench.lens.settings import LensSettings
from lensbench.models.load import load_model
from lensbench.models.model import LensModel, require_loaded
from lensbench.prompts.encode import EncodedPrompt, Encoder
from lensbench.prompts.prompt import Prompt
from lensbench.records.manifest import versions
from lensbench.report.walk.numbers import Architecture, Lens, Walk
from lensbench.report.walk.page import walk_page
from lensbench.version import __version__
from lensbench.walkthrough.embedding import read_embedding
from lensbench.walkthrough.files import free_path
from lensbench.walkthrough.heads import read_attention
from lensbench.walkthrough.lengths import with_lengths
from lensbench.walkthrough.path import Attribution
from lensbench.walkthrough.pieces import Names, text_tokens
from lensbench.walkthrough.positions import read_positions
from lensbench.walkthrough.stream import read_stream, writes_of

MOST_TOKENS = 64
N_READ = 8  # tokens that the lens keeps in each cell


@dataclass(frozen=True, eq=False)
class WalkResult:
    """One text through a model: the numbers of every step, and the page that shows them."""

    numbers: Walk

    def html(self) -> bytes:
        """The page: one file that needs nothing else. The same numbers give the same bytes."""
        return walk_page(self.numbers)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write the page; with `force` over a file that is there. Raises InputProblems."""
        where = free_path(Path(path), force)
        write_bytes(where, self.html())
        return where

    def __repr__(self) -> str:
        own = self.numbers
        best = int(np.argmax(own.logits))
        tokens = " ".join(visible(token.text) for token in own.tokens)
        return (
            f"WalkResult({own.model}: {len(own.tokens)} tokens, {own.architecture.n_layers} blocks)"
            f"\n  {tokens} → {visible(own.vocabulary[best])} (logit {own.logits[best]:.2f})"
            "\n  .save('walk.html') writes the page, .numbers holds every step"
        )


def walk(model: LensModel | str, text: str) -> WalkResult:
    """Follow one text through a whole model: pieces, vectors, attention, MLPs, lens, logits.

    Everything is the model's own and gated; `.save("page.html")` writes one interactive page that
    opens offline.

    >>> lb.walk("smollm2-135m", "The cat sat on the mat.").save("walk.html")  # doctest: +SKIP

    Args:
        model: what `load_model` returns, or a name, which is loaded.
        text: at most `MOST_TOKENS` tokens.

    Raises:
        InputProblems: a text that is empty, too long, or holds NUL bytes or half a character.
        ModelError: an unknown name, or a model whose attention or stream cannot be read.
        GateError: what was read is not the model.
    """
    require_text(text)
    loaded = load_model(model) if isinstance(model, str) else require_loaded(model)
    return WalkResult(read_walk(loaded, encoded_text(loaded, text)))


def require_text(text: object) -> None:
    """Raise InputProblems for what is no text, or an empty one: before a model is loaded."""
    if not isinstance(text, str) or not text.strip():
        what = "it is empty" if isinstance(text, str) else f"{type(text).__name__} is no text"
        raise InputProblems([Problem("text", what, "Give a sentence.")])


def encoded_text(model: LensModel, text: str) -> EncodedPrompt:
    """The text as the model reads it. Raises InputProblems where it cannot be shown."""
    encoder = Encoder(model.tokenizer, NO_LIMIT, where="text", d_vocab=model.d_vocab)
    try:
        encoded = encoder.encode(Prompt("text", text))
    except InputProblems as error:
        raise InputProblems([replace(one, where="text") for one in error.problems]) from None
    n, most = len(encoded.token_ids), min(MOST_TOKENS, model.n_ctx)
    if n > most:
        what = f"it has {n:,} tokens, and the page has room for {most}"
        raise InputProblems([Problem("text", what, "Give a sentence or two of it.")])
    return encoded


def read_walk(model: LensModel, encoded: EncodedPrompt) -> Walk:
    """Every step's numbers, gated. Raises as `walk`."""
    ids, names = list(encoded.token_ids), Names(model)
    lens, exact = _lens(model, encoded)
    stream, summed = read_stream(model, ids)
    attention, looked = read_attention(model, ids)
    attention = with_lengths(model, ids, attention)
    attribution = Attribution(model)
    path = attribution.path(stream.last_parts, stream.states[-1, -1], stream.logits)
    gate = [exact, summed, *looked, attribution.summed(path, stream.logits)]
    require(gate)
    embedding = read_embedding(model, ids, stream.states[0])
    return Walk(
        model=model.name,
        text=encoded.text,
        tokens=text_tokens(model, encoded, names),
        architecture=_architecture(model, names.kind),
        embedding=embedding,
        positions=read_positions(model, ids, embedding.position_norms is not None),
        attention=attention,
        state_norms=stream.states.norm(dim=-1).cpu().numpy(),
        sum_errors=stream.sum_errors.cpu().numpy(),
        attention_writes=writes_of(attribution, stream.attention, stream),
        mlp_writes=writes_of(attribution, stream.mlp, stream),
        lens=lens,
        logits=stream.logits.cpu().numpy(),
        vocabulary=[names(token) for token in range(model.d_vocab)],
        path=path,
        facts=_facts(model),
        gate=[one.as_dict() for one in gate],
    )


def _lens(model: LensModel, encoded: EncodedPrompt) -> tuple[Lens, Identity]:
    """What the logit lens reads in every cell, and that at the last layer it is the model."""
    top_k = min(N_READ, model.d_vocab)
    settings = LensSettings(positions="all", top_k=top_k)
    result = read(model, [encoded], settings)
    rows = result.to_pandas().sort_values(["layer", "position"])
    shape = (model.n_layers + 1, len(encoded.token_ids))

    def grid(name: str) -> Any:
        return np.stack(rows[name].to_list()).reshape(*shape, -1)

    lens = Lens(
        top_ids=grid("top_ids"),
        top_probs=grid("top_probs"),
        entropy_bits=grid("entropy_bits")[..., 0],
        kl_bits=grid("kl_bits")[..., 0],
    )
    return lens, lens_identity(model, result.gate_kl_bits)


def _architecture(model: LensModel, tokenizer: str) -> Architecture:
    return Architecture(
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_model=model.d_model,
        d_vocab=model.d_vocab,
        norm=model.norm,
        parallel=model.parallel,
        norms_behind=getattr(model.bridge.blocks[0], "ln1_post", None) is not None,
        write_scale=float(getattr(model.hf_config, "residual_multiplier", 1.0)),
        head_bias=model.readout.b_U is not None,
        soft_cap=model.readout.soft_cap,
        logit_scale=model.readout.logit_scale,
        tokenizer=tokenizer,
    )


def _facts(model: LensModel) -> list[tuple[str, str]]:
    """How the page was made, enough to make it again."""
    known: Mapping[str, Any] = {} if model.ref is None else model.ref.facts()
    told = {name: value for name, value in known.items() if value is not None}
    own = model.facts()
    made = {
        "source": own["source"],
        "parameters": f"{own['n_params']:,}",
        "precision": f"{own['dtype']} on {own['device']}; logits: {own['model_logits']}",
    }
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    code = {"made by": f"lensbench {__version__}", "with": packages}
    return [(name, str(value)) for name, value in {**made, **told, **code}.items()]
