"""One text through a whole model, as numbers: what `walkthrough` reads and the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

Kind = Literal["rotary", "learned", "alibi", "unseen"]


@dataclass(frozen=True)
class Token:
    """A token of the text; `start` and `end` count characters, None where it stands for none."""

    id: int
    spelled: str  # as the vocabulary has it
    text: str  # what it adds to the text
    start: int | None
    end: int | None


@dataclass(frozen=True)
class Architecture:
    """What of a model decides how a step is written down."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    norm: str  # RMS or LN
    parallel: bool  # attention and MLP read the same state
    norms_behind: bool  # a norm stands between a sub-layer and the stream (Gemma 2 and 3)
    write_scale: float  # by which what a sub-layer gives is multiplied (Granite)
    head_bias: bool
    soft_cap: float | None  # of the logits
    logit_scale: float
    tokenizer: str  # how it was learnt


@dataclass(frozen=True, eq=False)
class Embedding:
    """x_0 = scale * W_E[id], with the row of a position where there is a table of them.

    `rest` is what of x_0 that leaves unexplained, as a share of its length: a family may norm it.
    """

    vectors: Float[np.ndarray, "pos d_model"]
    scale: float
    row_norms: Float[np.ndarray, " pos"]  # of W_E[id]
    position_norms: Float[np.ndarray, " pos"] | None  # of what a table of positions adds
    rest: float
    neighbour_ids: Int[np.ndarray, "pos k"]  # of all other rows of W_E, the nearest first
    neighbour_cosines: Float[np.ndarray, "pos k"]


@dataclass(frozen=True, eq=False)
class Rotation:
    """By how much each pair of a head's dimensions is turned at each position, in radians."""

    angles: Float[np.ndarray, "pos pair"]  # -pi..pi, of the model's own cosines and sines
    per_token: Float[np.ndarray, " pair"]  # at position 1
    adjacent: bool  # pair i is of dimensions 2i and 2i + 1; else of i and i + n_pairs
    length: float  # by which the pair is multiplied as well; 1 but for YaRN and LongRoPE


@dataclass(frozen=True, eq=False)
class Positions:
    """How the model knows where a token stands."""

    kind: Kind
    rotations: Sequence[Rotation] = ()
    of_block: Sequence[int | None] = ()  # which rotation a block has


@dataclass(frozen=True, eq=False)
class Attention:
    """Scores of every head, as its softmax sees them: scaled, capped and masked (-inf).

    A cell is a query and a key that is not after it, query by query. The weights are
    `softmax(scores) * sums`; `sums` are 1, and less where a sink takes a share.
    """

    scores: Float[np.ndarray, "block head cell"]
    sums: Float[np.ndarray, "block head query"]
    scale: float | None  # by which q · k is multiplied; None: the family does not say
    d_head: int
    windows: Sequence[int | None]  # how far back each block's queries look; None: to the first
    cap: float | None  # of the scores
    sinks: bool
    # Of queries and keys as they meet; None where the family does not show them.
    query_lengths: Float[np.ndarray, "block head pos"] | None = None
    key_lengths: Float[np.ndarray, "block head pos"] | None = None


@dataclass(frozen=True, eq=False)
class Writes:
    """What the attention or the MLP of each block adds to the stream.

    `top_effects`: by how much a write raises a token's logit at its position above the mean logit,
    with the final norm's divisor held as it is there.
    """

    norms: Float[np.ndarray, "block pos"]
    top_ids: Int[np.ndarray, "block pos k"]
    top_effects: Float[np.ndarray, "block pos k"]


@dataclass(frozen=True, eq=False)
class Lens:
    """What the logit lens reads at every layer and position."""

    top_ids: Int[np.ndarray, "layer pos k"]
    top_probs: Float[np.ndarray, "layer pos k"]
    entropy_bits: Float[np.ndarray, "layer pos"]
    kl_bits: Float[np.ndarray, "layer pos"]


@dataclass(frozen=True, eq=False)
class Path:
    """What each part of the stream adds to the logits of the likeliest tokens, before the soft cap.

    Parts: the embedding, then attention and MLP of each block, then what rounding leaves over.
    `constants` are what biases add. A row and its constant sum to `logit_scale` times the head's
    product. `means` are those of all tokens of the vocabulary.
    """

    ids: Int[np.ndarray, " token"]
    effects: Float[np.ndarray, "token part"]
    constants: Float[np.ndarray, " token"]
    mean_effects: Float[np.ndarray, " part"]
    mean_constant: float


@dataclass(frozen=True, eq=False)
class Walk:
    """Everything that the page of one text shows, and where it is from."""

    model: str
    text: str
    tokens: Sequence[Token]
    architecture: Architecture
    embedding: Embedding
    positions: Positions
    attention: Attention
    state_norms: Float[np.ndarray, "layer pos"]
    sum_errors: Float[np.ndarray, "block pos"]  # of state + attention + MLP, relative to the next
    attention_writes: Writes
    mlp_writes: Writes
    lens: Lens
    logits: Float[np.ndarray, " d_vocab"]  # the model's own, behind the last token
    vocabulary: Sequence[str]
    path: Path
    facts: Sequence[tuple[str, str]]
    gate: Sequence[Mapping[str, Any]]
