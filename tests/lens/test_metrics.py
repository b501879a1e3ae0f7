"""Metrics of whole distributions against closed forms, scipy and torch; their float32 error."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

from lensbench import Prompt, logit_lens
from lensbench.lens import metrics
from lensbench.lens import table as lens_table
from lensbench.lens.metrics import Distribution
from lensbench.lens.vocabulary import statistics
from lensbench.records.schema.declare import F32, I32, Column, Table
from lensbench.records.schema.lens import LENS
from tests.harness.tiny import Case

# Logits on a grid, so that ties occur; two rows of one width.
rows = hnp.arrays(
    np.float32,
    st.tuples(st.just(2), st.integers(2, 200)),
    elements=st.integers(-240, 240).map(lambda i: i / 8),
)


def of(logits: object) -> Distribution:
    return Distribution.from_logits(torch.as_tensor(logits))


def of_probs(*probs: float) -> Distribution:
    return Distribution(torch.tensor(probs, dtype=torch.float64).log())


# Closed forms.


@pytest.mark.parametrize("width", [2, 64, 1000])
def test_uniform(width: int) -> None:
    q = of(torch.full((width,), 7.0))
    assert metrics.entropy_bits(q) == pytest.approx(math.log2(width), abs=5e-6)


def test_one_hot() -> None:
    logits = torch.zeros(100)
    logits[42] = 1000.0
    q, uniform = of(logits), of(torch.zeros(100))
    assert metrics.entropy_bits(q) == 0
    assert metrics.kl_bits(q, uniform) == pytest.approx(math.log2(100), abs=1e-6)


def test_two_points() -> None:
    p, q = of_probs(0.25, 0.75), of_probs(0.5, 0.5)
    h_quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert metrics.entropy_bits(p) == pytest.approx(h_quarter)
    assert metrics.kl_bits(p, q) == pytest.approx(1 - h_quarter)
    h_mixture = -(0.375 * math.log2(0.375) + 0.625 * math.log2(0.625))
    assert metrics.js_bits(p, q) == pytest.approx(h_mixture - (h_quarter + 1) / 2)


def test_disjoint_distributions_are_one_bit_apart() -> None:
    p, q = of([500.0, 0.0, 0.0]), of([0.0, 0.0, 500.0])
    assert metrics.js_bits(p, q) == pytest.approx(1.0, abs=1e-6)
    assert metrics.kl_bits(p, q) == pytest.approx(500 / math.log(2), rel=1e-6)


def test_cosine() -> None:
    x, y = torch.tensor([3.0, 0.0]), torch.tensor([4.0, 4.0])
    assert metrics.cosine(x, y) == pytest.approx(math.sqrt(0.5))
    assert metrics.cosine(x, -2 * x) == pytest.approx(-1.0)
    assert metrics.cosine(x, torch.zeros(2)).isnan()


# Against scipy and torch.


@given(rows)
def test_against_scipy(logits: np.ndarray) -> None:
    p, q = of(logits[0]), of(logits[1])
    exact = np.exp(logits.astype(float) - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    assert metrics.entropy_bits(q) == pytest.approx(entropy(exact[1], base=2), abs=2e-5)
    assert metrics.kl_bits(p, q) == pytest.approx(entropy(*exact, base=2), abs=2e-5, rel=1e-5)
    js = np.nan_to_num(jensenshannon(*exact, base=2)) ** 2  # its root of -1e-17 is NaN
    assert metrics.js_bits(p, q) == pytest.approx(js, abs=2e-6)


@given(rows)
def test_against_torch_distributions(logits: np.ndarray) -> None:
    p, q = (torch.distributions.Categorical(logits=torch.tensor(x).double()) for x in logits)
    ours = of(logits)
    assert metrics.entropy_bits(ours)[1] == pytest.approx(
        float(q.entropy() / math.log(2)), abs=2e-5
    )
    kl = float(torch.distributions.kl_divergence(p, q) / math.log(2))
    assert metrics.kl_bits(of(logits[0]), of(logits[1])) == pytest.approx(kl, abs=2e-5, rel=1e-5)


@given(rows)
def test_js_is_symmetric_and_bounded(logits: np.ndarray) -> None:
    p, q = of(logits[0]), of(logits[1])
    js = metrics.js_bits(p, q)
    assert js == metrics.js_bits(q, p)
    assert 0 <= js <= 1 + 1e-6
    assert metrics.js_bits(p, of(logits[0])) == pytest.approx(0.0, abs=2e-6)


@given(rows)
def test_kl_of_equals_is_exactly_zero_and_never_negative(logits: np.ndarray) -> None:
    p, q = of(logits[0]), of(logits[1])
    assert metrics.kl_bits(p, of(logits[0])) == 0
    assert metrics.kl_bits(p, q) >= 0


def test_what_rounding_leaves_below_zero_is_zero() -> None:
    """Not -1.6e-08, nor -0.0, which is printed as -0.00."""
    p = of(torch.tensor([[3.0, 1.0, 0.5], [90.0, 0.0, 0.0]]))
    near = Distribution(p.log_probs + torch.tensor([[1e-8, -1e-8, 2e-7], [0.0, 0.0, 0.0]]))
    for found in (
        metrics.kl_bits(p, near),
        metrics.kl_bits(near, p),
        metrics.js_bits(p, near),
        metrics.entropy_bits(p),
    ):
        assert bool((found >= 0).all())
        assert not bool(found.signbit().any())


@pytest.mark.parametrize("factor", [1.01, 2.0])
def test_more_than_rounding_stays_visible(factor: float) -> None:
    """What is no distribution, as a broken softmax would leave it, is not made to look like one."""
    p = of(torch.tensor([[3.0, 1.0, 0.5]]))
    too_much = Distribution(p.log_probs + math.log(factor))
    assert float(metrics.kl_bits(p, too_much)) == pytest.approx(-math.log2(factor), rel=1e-3)
    sharp = Distribution(torch.tensor([[math.log(factor), -200.0]]))
    assert float(metrics.entropy_bits(sharp)) < -1e-2
    assert metrics.kl_bits(p, Distribution(p.log_probs * math.nan)).isnan().all()


# Float32.


def _exact(logits: Tensor) -> Distribution:
    return Distribution.from_logits(logits.double())


def _hard_rows(offset: float) -> Tensor:
    """Logits of magnitude 30 over 50,257 tokens, from nearly flat to nearly one-hot."""
    generator = torch.Generator().manual_seed(7)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0, 30.0]).unsqueeze(-1)
    return scales * torch.randn(5, 50_257, generator=generator) + offset


# How far off float32 may be: 40 roundings of 1e-6 bits, the spacing of float32 at 10 bits, and as
# many at the size of the value itself. Half of that was seen.
BITS, RELATIVE = 4e-5, 3e-6


@pytest.mark.parametrize("offset", [0.0, 30.0, -300.0, 10_000.0])
def test_float32_error_at_full_vocabulary(offset: float) -> None:
    p, q = _hard_rows(offset), _hard_rows(offset).flip(0)
    arguments = {
        metrics.entropy_bits: (p,),
        metrics.kl_bits: (p, q),
        metrics.js_bits: (p, q),
    }
    for metric, args in arguments.items():
        fast, exact = metric(*map(of, args)), metric(*map(_exact, args))
        torch.testing.assert_close(
            fast.double(), exact, atol=BITS, rtol=RELATIVE, msg=lambda m, f=metric: f"{f}: {m}"
        )
    assert float((of(p).probs.sum(-1) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("place", [17, 262_143])
def test_many_small_probabilities_are_summed_as_they_are(place: int) -> None:
    """262,143 tokens share a third: added one after the other, each loses what float32 rounds."""
    logits = torch.zeros(2, 262_144)
    logits[0, place], logits[1, 262_000] = 12.0, 20.0
    log_p, log_q = logits.double().log_softmax(-1)
    p, q = map(of, logits)
    wanted = -(log_p.exp() * log_p).sum() / math.log(2)
    assert float(metrics.entropy_bits(p)) == pytest.approx(float(wanted), abs=BITS, rel=RELATIVE)
    wanted = (log_p.exp() * (log_p - log_q)).sum() / math.log(2)
    assert float(metrics.kl_bits(p, q)) == pytest.approx(float(wanted), abs=BITS, rel=RELATIVE)
    wanted = jensenshannon(log_p.exp(), log_q.exp(), base=2) ** 2
    assert float(metrics.js_bits(p, q)) == pytest.approx(float(wanted), abs=BITS, rel=RELATIVE)
    assert float(metrics.js_bits(p, p)) == pytest.approx(0, abs=BITS)


def test_uncentred_float32_would_be_worse() -> None:
    """Why `Distribution` centres: log Z - sum p z cancels two numbers of the offset's size."""
    logits = _hard_rows(-300.0)
    exact = metrics.entropy_bits(_exact(logits))
    log_z = logits.logsumexp(-1)
    p = (logits - log_z.unsqueeze(-1)).exp()
    uncentred = (log_z - (p * logits).sum(-1)) / math.log(2)
    assert (uncentred - exact).abs().max() > 1e-3
    assert (metrics.entropy_bits(of(logits)) - exact).abs().max() < BITS


@given(st.sampled_from([1e4, 1e6, 1e30]), st.integers(2, 300))
def test_extreme_logits_stay_finite(size: float, width: int) -> None:
    logits = torch.full((2, width), -size)
    logits[0, 0] = size
    logits[1, width - 1] = size
    p, q = of(logits[0]), of(logits[1])
    assert metrics.entropy_bits(p) == 0
    assert metrics.js_bits(p, q) == pytest.approx(1.0)
    bits = 2 * size / math.log(2)
    assert metrics.kl_bits(p, q) == pytest.approx(bits)


def test_a_metric_is_a_function_a_line_and_a_column(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are added here, where their lines would stand: of a distribution, and of a token."""
    columns = (
        Column("top_prob", F32, "of the best token", "0..1"),
        Column("answer_surprisal_bits", F32, "of the answer", "bits", null="no answer"),
        Column("twice", I32, "two times its rank", null="no answer"),
    )
    longer = Table(LENS.name, LENS.rows, (*LENS.columns, *columns))
    monkeypatch.setattr(lens_table, "LENS", longer)
    top_prob = {"top_prob": lambda reading: reading.log_probs(reading.top_logits)[:, 0].exp()}
    monkeypatch.setattr(statistics, "STATISTICS", statistics.STATISTICS | top_prob)
    of_token = {
        "answer_surprisal_bits": ("answer", statistics.surprisal_bits),
        "twice": ("answer", lambda reading, token: 2 * statistics.rank(reading, token)),
    }
    more = statistics.TOKEN_STATISTICS | of_token
    monkeypatch.setattr(statistics, "TOKEN_STATISTICS", more)
    prompts = [Prompt("a", "The capital of Germany is", answer="Berlin"), Prompt("b", "Rome")]
    frame = logit_lens(llama.model, prompts).to_pandas()
    assert np.array_equal(frame.top_prob, [probs[0] for probs in frame.top_probs])
    asked = frame[frame.prompt_id == "a"]
    np.testing.assert_allclose(asked.answer_surprisal_bits, -np.log2(asked.answer_prob), rtol=1e-5)
    assert (asked.twice == 2 * asked.answer_rank).all()
    assert frame[frame.prompt_id == "b"][["answer_surprisal_bits", "twice"]].isna().all(axis=None)
