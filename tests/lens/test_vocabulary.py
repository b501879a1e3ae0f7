"""One pass over the vocabulary: against closed forms, float64, and the products it replaces."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensbench.lens.metrics import LN_2, Distribution, js_bits, kl_bits
from lensbench.lens.vocabulary import statistics as of
from lensbench.lens.vocabulary.reading import MISSING, Reading
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models import readout as head
from lensbench.models.readout import Readout
from lensbench.records.schema.lens import ON_REQUEST
from tests.harness.vocabulary import exact_logits, read_logits, stream_of

# What is promised: bits of float64, and as much relative.
BITS, RELATIVE = 2e-5, 2e-5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Logits on a grid, so that ties occur.
rows = hnp.arrays(
    np.float32,
    st.tuples(st.just(2), st.integers(2, 200)),
    elements=st.integers(-240, 240).map(lambda i: i / 8),
)


def answer(reading: Reading, statistic: Any) -> Any:
    return statistic(reading, reading.seen["answer"])


def exact(logits: Tensor, model_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and KL(model || this) in float64, bits."""
    log_q, log_p = logits.double().log_softmax(-1), model_logits.double().log_softmax(-1)
    entropy = -(log_q.exp() * log_q).sum(-1)
    return entropy / LN_2, (log_p.exp() * (log_p - log_q)).sum(-1) / LN_2


def assert_bits(got: Tensor, wanted: Tensor, bits: float = BITS) -> None:
    torch.testing.assert_close(got, wanted, atol=bits, rtol=RELATIVE)


# Closed forms.


@pytest.mark.parametrize("width", [2, 64, 1000])
def test_uniform(width: int) -> None:
    q = read_logits(torch.full((1, width), 7.0), answer=1)
    assert q.entropy_bits == pytest.approx(math.log2(width), abs=1e-6)
    assert q.kl_bits == pytest.approx(0, abs=1e-6)
    assert answer(q, of.surprisal_bits) == pytest.approx(math.log2(width), abs=1e-6)
    assert (int(answer(q, of.rank)), int(answer(q, of.ties))) == (1, width - 1)
    assert answer(q, of.margin_bits) == 0


def test_one_hot() -> None:
    logits = torch.zeros(1, 100)
    logits[0, 42] = 1000.0
    best = read_logits(logits, answer=42)
    other = read_logits(torch.zeros(1, 100), model_logits=logits, answer=0)
    assert best.entropy_bits == 0
    assert answer(best, of.surprisal_bits) == 0
    assert not answer(best, of.surprisal_bits).signbit()
    assert answer(best, of.prob) == 1
    assert other.kl_bits == pytest.approx(math.log2(100), abs=1e-6)
    assert answer(best, of.margin_bits) == pytest.approx(1000 / LN_2)
    worse = read_logits(logits, answer=0)
    assert answer(worse, of.rank) == 2
    assert answer(worse, of.margin_bits) == pytest.approx(-1000 / LN_2)


def test_two_points() -> None:
    p, q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    h_quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert read_logits(p).entropy_bits == pytest.approx(h_quarter)
    assert read_logits(q, model_logits=p).kl_bits == pytest.approx(1 - h_quarter)
    assert answer(read_logits(p, answer=0), of.surprisal_bits) == pytest.approx(2.0)
    assert answer(read_logits(p, answer=1), of.margin_bits) == pytest.approx(math.log2(3))


def test_ties_share_the_better_rank() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0, 1.0]]).repeat(5, 1)
    q = read_logits(logits, answer=torch.arange(5))
    assert answer(q, of.rank).tolist() == [4, 1, 1, 3, 4]
    assert answer(q, of.ties).tolist() == [1, 1, 1, 0, 1]


def test_a_missing_token_is_nothing() -> None:
    q = read_logits(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), answer=torch.tensor([MISSING, 0]))
    seen = q.seen["answer"]
    assert seen.logit.isnan().tolist() == [True, False]
    assert answer(q, of.prob).isnan().tolist() == [True, False]
    assert int(answer(q, of.rank)[1]) == 2


def test_what_is_not_counted_has_no_rank() -> None:
    readout = Readout(lambda x: x, torch.tensor([[1.0, 3.0]]), None)
    output = stream_of(readout, torch.zeros(1, 2), {}).output
    stream = Stream(output, {"answer": torch.tensor([0])}, 5, uncounted=("answer",))
    q = stream.read(Vectors(torch.ones(1, 1, 1), slice(0, 1)))
    assert answer(q, of.surprisal_bits) == pytest.approx(-math.log2(1 / (1 + math.exp(2))))
    for statistic in (of.rank, of.ties):
        with pytest.raises(AssertionError, match="not counted"):
            answer(q, statistic)


# Against float64, and decisions against a sort.


@given(rows, st.data())
def test_every_statistic_of_exact_logits(values: np.ndarray, data: st.DataObject) -> None:
    logits = torch.tensor(values)
    width = logits.shape[1]
    token, k = data.draw(st.integers(0, width - 1)), data.draw(st.integers(1, 12))
    q = read_logits(logits, model_logits=logits.flip(0), k=k, answer=token)
    entropy, kl = exact(logits, logits.flip(0))
    assert_bits(q.entropy_bits, entropy)
    assert_bits(q.kl_bits, kl)
    log_q = logits.double().log_softmax(-1)
    assert_bits(answer(q, of.surprisal_bits), -log_q[:, token] / LN_2)
    own = logits[:, token : token + 1]
    assert answer(q, of.rank).tolist() == (1 + (logits > own).sum(-1)).tolist()
    assert answer(q, of.ties).tolist() == ((logits == own).sum(-1) - 1).tolist()
    others = torch.cat([logits[:, :token], logits[:, token + 1 :]], dim=1).amax(-1)
    assert_bits(answer(q, of.margin_bits), (own[:, 0] - others).double() / LN_2)
    kept = min(max(k, 2), width)
    assert torch.equal(q.top_logits, logits.topk(kept).values)
    assert torch.equal(logits.gather(1, q.top_ids), q.top_logits)
    assert all(len(set(ids)) == kept for ids in q.top_ids.tolist())


@given(
    st.integers(1, 400),
    st.integers(2, 40),
    st.sampled_from(DTYPES),
    st.sampled_from([None, 30.0, 2.0]),
    st.sampled_from([1.0, 0.125, 16.0]),
    st.booleans(),
    st.integers(0, 2**16),
    st.sampled_from([64, 128, 2048]),
    st.booleans(),
)
def test_every_kind_of_head(
    d_vocab: int,
    d_model: int,
    dtype: torch.dtype,
    cap: float | None,
    scale: float,
    biased: bool,
    seed: int,
    width: int,
    holds: bool,
) -> None:
    """Caps, scales, biases, half precision and odd vocabularies, in tiles of any width.

    `holds`: as on an accelerator.
    """
    d_vocab += 1
    generator = torch.Generator().manual_seed(seed)
    W_U = torch.randn(d_vocab, d_model, generator=generator).to(dtype)
    W_U[d_vocab // 2] = W_U[0]  # two tokens always tie
    bias = torch.randn(d_vocab, generator=generator).to(dtype) if biased else None
    if bias is not None:
        bias[d_vocab // 2] = bias[0]
    readout = Readout(lambda x: x, W_U.T, bias, scale, cap)
    normed = torch.randn(3, 4, d_model, generator=generator)
    final = torch.randn(3, d_model, generator=generator)
    tokens = torch.randint(0, d_vocab, (3,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_HELD_TILE_TOKENS" if holds else "_TILE_TOKENS", width)
        patch.setattr(Readout, "holds", holds)
        stream = stream_of(readout, readout.logits(final), {"answer": tokens})
        q = stream.read(Vectors(normed, slice(0, 3)))
    flat = normed.flatten(0, 1)
    truth, whole = exact_logits(readout, flat), readout.logits(flat)
    entropy, kl = exact(truth, exact_logits(readout, final).repeat_interleave(4, 0))
    assert_bits(q.entropy_bits, entropy)
    assert_bits(q.kl_bits, kl)
    assert_decisions(q, whole, tokens.repeat_interleave(4))
    first = tokens.repeat_interleave(4) == 0
    assert (answer(q, of.ties)[first] >= (0 if d_vocab // 2 == 0 else 1)).all()


def assert_decisions(q: Reading, logits: Tensor, tokens: Tensor, rounding: float = 1e-5) -> None:
    """Ranks and top tokens by these products, but for exchanges within their rounding."""
    scale = rounding * logits.abs().amax(-1).clamp(min=1)
    own = logits.gather(1, tokens.unsqueeze(1))
    least = 1 + (logits > own + scale.unsqueeze(1)).sum(-1)
    most = (logits >= own - scale.unsqueeze(1)).sum(-1)
    rank, ties = answer(q, of.rank), answer(q, of.ties)
    assert (rank >= least).all()
    assert (rank + ties <= most).all()
    best = logits.topk(q.top_ids.shape[1]).values
    assert ((logits.gather(1, q.top_ids) - best).abs() <= scale.unsqueeze(1)).all()
    top = q.top_ids[:, 0] == tokens
    assert ((rank == 1) | ~top).all()
    assert ((answer(q, of.margin_bits) >= 0) == (rank == 1)).all()


@given(st.sampled_from([1e4, 1e6, 1e30]), st.integers(2, 300))
def test_extreme_logits(size: float, width: int) -> None:
    logits = torch.full((2, width), -size)
    logits[0, 0] = size
    logits[1, width - 1] = size
    q = read_logits(logits, model_logits=logits.flip(0), answer=0)
    bits = 2 * size / LN_2
    assert q.entropy_bits.tolist() == [0, 0]
    assert q.kl_bits == pytest.approx(bits)
    assert answer(q, of.rank).tolist() == [1, 2]
    assert answer(q, of.surprisal_bits) == pytest.approx([0, bits])
    assert answer(q, of.margin_bits) == pytest.approx([bits, -bits])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 70, 2100])
def test_what_is_no_distribution_gives_no_number(bad: float, where: int) -> None:
    """As for whole distributions: the prompt is skipped then, and said to be."""
    logits = torch.zeros(2, 2200)
    broken = logits.clone()
    broken[1, where] = bad
    readout = Readout(lambda x: x, broken[1:2], None)
    stream = stream_of(readout, logits, {"answer": torch.tensor([5, 5])})
    q = stream.read(Vectors(torch.ones(2, 1, 1), slice(0, 2)))
    assert q.entropy_bits.isnan().all()
    assert Distribution.from_logits(broken[1]).entropy.isnan()


def _hard_rows(offset: float) -> Tensor:
    """Logits of magnitude 30 over 50,257 tokens, from nearly flat to nearly one-hot."""
    generator = torch.Generator().manual_seed(7)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0, 30.0]).unsqueeze(-1)
    return scales * torch.randn(5, 50_257, generator=generator) + offset


@pytest.mark.parametrize("offset", [0.0, 30.0, -300.0])
def test_float32_error_at_full_vocabulary(offset: float) -> None:
    logits = _hard_rows(offset)
    q = read_logits(logits, model_logits=logits.flip(0), answer=torch.arange(5) * 10_000)
    entropy, kl = exact(logits, logits.flip(0))
    assert_bits(q.entropy_bits, entropy)
    assert_bits(q.kl_bits, kl)
    own = logits.double().log_softmax(-1).gather(1, (torch.arange(5) * 10_000).unsqueeze(1))
    assert_bits(answer(q, of.surprisal_bits), -own[:, 0] / LN_2)


def test_a_small_divergence_of_large_logits_is_not_rounding() -> None:
    """Both are sure of a token at a logit of 700, where float32 products are spaced 6e-5 apart."""
    generator = torch.Generator().manual_seed(3)
    W_U = torch.randn(1000, 64, generator=generator)
    final = 11 * W_U[17] + torch.randn(8, 64, generator=generator)
    normed = final + 0.3 * torch.randn(8, 64, generator=generator)
    readout = Readout(lambda x: x, W_U.T, None)
    assert readout.logits(final)[:, 17].min() > 500
    stream = stream_of(readout, exact_logits(readout, final).float(), {})
    q = stream.read(Vectors(normed.unsqueeze(1), slice(0, 8)))
    _, kl = exact(exact_logits(readout, normed), exact_logits(readout, final))
    assert_bits(q.kl_bits, kl)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
def test_divergences_of_states_that_one_weight_outweighs(size: float) -> None:
    """Products of logits that large are far off in float32. Those of the best tokens are known."""
    generator = torch.Generator().manual_seed(5)
    W_U = torch.randn(3000, 64, generator=generator)
    final = torch.randn(8, 64, generator=generator)
    final[:, 0] = size
    normed = final + 0.3 * torch.randn(8, 64, generator=generator)
    W_U[9, 0] = 6.0
    readout = Readout(lambda x: x, W_U.T, None)
    stream = stream_of(readout, exact_logits(readout, final).float(), {})
    q = stream.read(Vectors(normed.unsqueeze(1), slice(0, 8)))
    _, kl = exact(exact_logits(readout, normed), exact_logits(readout, final))
    assert_bits(q.kl_bits, kl)


@pytest.mark.parametrize("offset", [10.0, 100.0])
def test_what_all_tokens_have_in_common_is_no_divergence(offset: float) -> None:
    """Means of rows that share a weight, summed over 20,000 tokens: rounding that goes one way."""
    generator = torch.Generator().manual_seed(1)
    W_U = 3 * torch.randn(20_000, 8, generator=generator)
    W_U[:, 0] = 1.234567
    normed = torch.randn(4, 8, generator=generator) / 8**0.5
    normed[:, 0] = offset / 1.234567
    final = normed.clone()
    final[:, 1:] += 0.3 * torch.randn(4, 7, generator=generator) / 8**0.5
    readout = Readout(lambda x: x, W_U.T, None)
    truth, model_logits = exact_logits(readout, normed), exact_logits(readout, final)
    q = stream_of(readout, model_logits.float(), {}).read(Vectors(normed[:, None], slice(0, 4)))
    assert_bits(q.kl_bits, exact(truth, model_logits)[1])


def test_a_model_whose_logits_are_large() -> None:
    """Half of its tokens are 1e4 above the others: float32 log-partitions are spaced 1e-3 apart."""
    logits = torch.zeros(1, 20_000)
    logits[:, ::2] = 1e4
    assert_bits(read_logits(torch.zeros(1, 20_000), logits).kl_bits, torch.ones(1).double())


# The whole way, for what needs it.


def _random(n_cells: int, n_sites: int, d_vocab: int) -> tuple[Readout, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(d_vocab)
    W_U = torch.randn(d_vocab, 16, generator=generator)
    normed = torch.randn(n_cells, n_sites, 16, generator=generator)
    return Readout(lambda x: x, W_U.T, None), normed, normed[:, -1] @ W_U.T


def test_held_logits_say_what_tiles_say() -> None:
    readout, normed, model_logits = _random(5, 3, 3000)
    stream = stream_of(readout, model_logits, {"answer": torch.arange(5) * 700})
    vectors = Vectors(normed[1:], slice(1, 5))
    tiled, (held, more) = stream.read(vectors), stream.read_whole(vectors, {"js_bits": js_bits})
    for name in ("log_z", "entropy_bits", "kl_bits", "top_logits"):
        torch.testing.assert_close(getattr(tiled, name), getattr(held, name), atol=1e-5, rtol=1e-5)
    assert torch.equal(tiled.top_ids, held.top_ids)
    assert torch.equal(answer(tiled, of.rank), answer(held, of.rank))
    p = Distribution.from_logits(model_logits[1:].repeat_interleave(3, 0))
    q = Distribution.from_logits(readout.logits(normed[1:]).flatten(0, 1))
    torch.testing.assert_close(more["js_bits"], js_bits(p, q))
    torch.testing.assert_close(held.kl_bits, kl_bits(p, q).double())


def test_a_logit_that_is_not_the_tile_s_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library may sum products of another shape in another order."""
    readout, normed, model_logits = _random(4, 3, 3000)
    sought = {"answer": torch.tensor([0, 9, 2999, 4])}
    vectors = Vectors(normed, slice(0, 4))
    wanted = stream_of(readout, model_logits, sought).read(vectors)
    plain = Stream._logits_of

    def off(*given: Any) -> dict[str, Tensor]:
        return {name: logits + 1e-6 for name, logits in plain(*given).items()}

    monkeypatch.setattr(Stream, "_logits_of", off)
    q = stream_of(readout, model_logits, sought).read(vectors)
    assert torch.equal(answer(q, of.rank), answer(wanted, of.rank))
    assert answer(q, of.ties).tolist() == [0] * 12  # 1e-6 off, it would not even equal itself


def test_divergences_are_the_columns_on_request() -> None:
    assert tuple(of.DIVERGENCES) == ON_REQUEST
