"""Entropies and divergences are float64's within the stated bound, whatever the numbers are.

The right values are plain torch's in float64, of the same float32 vectors and weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensbench import load_model, logit_lens, residual_stream
from lensbench.lens.metrics import LN_2
from lensbench.lens.vocabulary import statistics as of
from lensbench.lens.vocabulary.bound import BITS, RELATIVE, Errors
from lensbench.lens.vocabulary.reading import Reading
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models import readout as head
from lensbench.models.readout import Readout
from tests.harness.tiny import PROMPTS, Case
from tests.harness.vocabulary import exact_logits, stream_of

N, D_MODEL, D_VOCAB = 8, 64, 3000


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(logits: Tensor, model_logits: Tensor) -> dict[str, Tensor]:
    """Entropy, KL(model || this) and their Jensen-Shannon divergence, bits."""
    log_q, log_p = logits.double().log_softmax(-1), model_logits.double().log_softmax(-1)
    log_m = torch.logaddexp(log_q, log_p) - LN_2
    both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return {
        "entropy_bits": -(log_q.exp() * log_q).sum(-1) / LN_2,
        "kl_bits": (log_p.exp() * (log_p - log_q)).sum(-1) / LN_2,
        "js_bits": both.sum(-1) / 2 / LN_2,
    }


def beyond(got: Tensor, wanted: Tensor) -> float:
    """The largest error, a multiple of the bound."""
    return float(((got - wanted).abs() / (BITS + RELATIVE * wanted.abs())).max())


class Rows:
    """States of the lens and of the model before one head, and what float64 says of them."""

    def __init__(self, readout: Readout, normed: Tensor, final: Tensor) -> None:
        self.readout, self.normed, self.final = readout, normed, final
        self.model_logits = exact_logits(readout, final).float()
        self.wanted = exact(exact_logits(readout, normed), self.model_logits)

    def stream(self, parts: bool = False, at_hand: bool = False) -> tuple[Stream, Vectors]:
        """What reads them, and what is to be read; with the model's logits at hand, or not."""
        readout = self.readout.in_parts() if parts else self.readout
        sought = {"answer": self.model_logits.argmax(-1)}
        vectors = Vectors(self.normed.unsqueeze(1), slice(0, len(self.normed)))
        final = self.final if at_hand else None
        return stream_of(readout, self.model_logits, sought, normed=final), vectors

    def beyond(self, reading: Reading) -> float:
        """See above, of entropies and divergences."""
        names = ("entropy_bits", "kl_bits")
        return max(beyond(getattr(reading, name), self.wanted[name]) for name in names)


def odd(kind: str) -> Rows:
    """Numbers of which float32 products leave more than the bound."""
    W, final = drawn(D_VOCAB, D_MODEL), drawn(N, D_MODEL, seed=1)
    bias, cap = None, None
    normed = final + 0.3 * drawn(N, D_MODEL, seed=2)
    if kind == "a common offset":
        W[:, 0], normed[:, 0], final[:, 0] = 1.234567, 1000 / 1.234567, 1000 / 1.234567
        W[:, 1:] /= 3
    elif kind == "a common bias":
        bias, W = torch.full((D_VOCAB,), 1000.3), W / 8
    elif kind == "half the tokens far away":
        W[::2, 1] += 1e4
        normed[:, 1] = final[:, 1] = 1.0
    elif kind == "equal weights":
        W = torch.full((D_VOCAB, D_MODEL), 100.3)
    elif kind == "one state outweighs all":
        W[:, 0], normed[:, 0], final[:, 0] = 1.0, 1e5, 1e5
    elif kind == "weights below the normal ones":
        W, normed, final = W * 1e-38, normed * 6e37, final * 6e37
    elif kind == "a bias under a high cap":
        bias, cap, normed, final = torch.full((D_VOCAB,), 1000.3), 3000.0, 20 * normed, 20 * final
    else:
        raise AssertionError(kind)
    return Rows(Readout(lambda x: x, W.T.contiguous(), bias, 1.0, cap), normed, final)


ODD = (
    "a common offset",
    "a common bias",
    "half the tokens far away",
    "equal weights",
    "one state outweighs all",
    "weights below the normal ones",
    "a bias under a high cap",
)


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_rows_that_float32_leaves_outside_are_read_again(
    kind: str, parts: bool, at_hand: bool
) -> None:
    rows = odd(kind)
    stream, vectors = rows.stream(parts, at_hand)
    once, again = stream.read(vectors), stream.within(vectors)
    assert once.outside.any() or at_hand  # sums over p itself lose less
    assert not again.outside.any()
    assert rows.beyond(again) < 0.5
    inside = ~once.outside
    assert torch.equal(again.kl_bits[inside], once.kl_bits[inside])


@pytest.mark.parametrize("kind", ODD)
def test_what_is_read_again_was_wrong(kind: str) -> None:
    """Or the test above would show nothing."""
    rows = odd(kind)
    stream, vectors = rows.stream()
    assert rows.beyond(stream.read(vectors)) > 1


@given(
    st.floats(-5, 5),
    st.floats(-35, 35),
    st.floats(-3, 2),
    st.sampled_from([None, 30.0, 2000.0]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(["none", "all", "half"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_any_offset_spread_and_scale(
    offset: float,
    scale: float,
    spread: float,
    cap: float | None,
    dtype: torch.dtype,
    of_tokens: str,
    parts: bool,
    holds: bool,
    at_hand: bool,
    seed: int,
) -> None:
    """Powers of ten of what tokens have in common, of weights against states, and of logits."""
    scale = max(min(scale, 3), -3) if dtype == torch.float16 else scale
    W = drawn(400, 24, seed=seed)
    final = drawn(4, 24, seed=seed + 1) * 10**spread
    normed = final + 10**spread * 0.3 * drawn(4, 24, seed=seed + 2)
    if of_tokens != "none":
        normed[:, 0] = final[:, 0] = 10**offset
        W[:: 1 if of_tokens == "all" else 2, 0] = 1.0
    readout = Readout(lambda x: x, (W * 10**scale).to(dtype).T, None, 1.0, cap)
    rows = Rows(readout, normed / 10**scale, final / 10**scale)
    stream, vectors = rows.stream(parts, at_hand)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_HELD_TILE_TOKENS" if holds else "_TILE_TOKENS", 128)
        patch.setattr(Readout, "holds", holds)
        reading = stream.within(vectors)
    assert rows.beyond(reading) < 1


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=40), st.integers(1, 8))
def test_what_a_bound_takes_for_uneven_is_no_less(logits: list[float], k: int) -> None:
    """sum q |log q + H| of all but the k best, term by term."""
    log_q = torch.tensor([logits], dtype=torch.float64).log_softmax(-1).sort(descending=True).values
    q = log_q.exp()
    entropy = -(q * log_q).sum(-1)
    terms = q * (log_q + entropy).abs()
    errors = Errors(torch.zeros_like(q[:, :k]), q[:, :k], torch.ones(1, dtype=torch.float64))
    least, most = terms[:, k:].sum(-1), 2 * torch.special.entr(q).sum(-1)
    taken = errors.uneven(entropy)
    assert (taken >= least - 1e-12).all()
    assert (taken <= most + 1e-12).all()  # what any distribution's is at most


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("size", [1.0, 3.0, 10.0])
def test_ordinary_rows_are_read_once(size: float, at_hand: bool) -> None:
    """Logits of standard deviation 1 to 10."""
    W, final = drawn(D_VOCAB, D_MODEL) * size / D_MODEL**0.5, drawn(64, D_MODEL, seed=1)
    normed = final + 0.3 * drawn(64, D_MODEL, seed=2)
    rows = Rows(Readout(lambda x: x, W.T, None), normed, final)
    stream, vectors = rows.stream(at_hand=at_hand)
    reading = stream.read(vectors)
    assert not reading.outside.any()
    assert rows.beyond(reading) < 1


def test_decisions_of_float64_rows_are_float64_s() -> None:
    """Ranks, ties and top tokens: 200 tokens are one, whatever the order of their sums."""
    W, normed = drawn(500, D_MODEL), 1e4 * drawn(N, D_MODEL, seed=1)
    W[100:300] = W[100]
    rows = Rows(Readout(lambda x: x, W.T, None), normed, normed)
    stream, vectors = rows.stream()
    tokens = torch.tensor([7, 100, 150, 299, 0, 499, 250, 3])
    stream = stream_of(rows.readout, rows.model_logits, {"answer": tokens})
    reading = stream.within(vectors)
    assert stream.read(vectors).outside.all()
    truth = exact_logits(rows.readout, normed)
    own, near = truth.gather(1, tokens.unsqueeze(1)), 1e-6
    seen = reading.seen["answer"]
    assert of.rank(reading, seen).tolist() == (1 + (truth > own + near).sum(-1)).tolist()
    wanted = ((truth - own).abs() <= near).sum(-1) - 1
    assert of.ties(reading, seen).tolist() == wanted.tolist()
    assert wanted[1] == 199
    torch.testing.assert_close(reading.top_logits, truth.topk(5).values, atol=1e-8, rtol=1e-12)


@pytest.mark.parametrize("metrics", [(), ("js_bits",)])
def test_a_whole_model_of_large_logits(llama: Case, metrics: tuple[str, ...]) -> None:
    """All weights of its head share 100: float32 logits are spaced 1e-4 apart, and it is read."""
    model = load_model(llama.folder, device="cpu")
    with torch.no_grad():
        model.bridge.original_model.get_output_embeddings().weight += 100.3
    result = logit_lens(model, PROMPTS[1], lens=["final", "raw"], metrics=metrics)
    assert result.n_read_again > 0
    assert f"{result.n_read_again} rows by float64 products" in repr(result)
    seen = residual_stream(model, PROMPTS[1])
    frame = result.to_pandas()
    for lens, norm in (("final", model.readout.norm), ("raw", lambda x: x)):
        rows = frame[(frame["lens"] == lens)].sort_values(["layer", "position"])
        for layer, site in enumerate(seen.sites):
            with torch.inference_mode():
                truth = exact_logits(model.readout, norm(seen.at(site)))
            assert_rows(rows[rows.layer == layer], exact(truth, seen.logits[0]), metrics)


def test_what_float64_cannot_tell_is_no_number(llama: Case) -> None:
    """Logits of 1e15 whose tokens are near each other: float64 numbers are .1 apart there."""
    model = load_model(llama.folder, device="cpu")
    with torch.no_grad():
        model.bridge.original_model.get_output_embeddings().weight.copy_(torch.tensor(1e15))
    frame = logit_lens(model, PROMPTS[1], lens="raw").to_pandas()
    assert frame.entropy_bits.isna().any()
    assert frame.kl_bits[frame.entropy_bits.isna()].isna().all()


def assert_rows(rows: Any, wanted: dict[str, Tensor], metrics: tuple[str, ...]) -> None:
    for name in ("entropy_bits", "kl_bits", *metrics):
        off = np.abs(rows[name].to_numpy() - wanted[name].numpy())
        assert (off <= BITS + (RELATIVE + 1e-7) * wanted[name].numpy()).all(), name
