"""Products of bfloat16 parts: every decision is float64's, however near a tie, in every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensbench import Prompt, load_model, logit_lens, residual_stream
from lensbench.errors import InputProblems, ModelError
from lensbench.lens.vocabulary import exact as decisions
from lensbench.lens.vocabulary import statistics as of
from lensbench.lens.vocabulary.products import measured
from lensbench.lens.vocabulary.reading import MISSING, Reading
from lensbench.lens.vocabulary.stream import Vectors
from lensbench.models import readout as head
from lensbench.models.products import split as parts
from lensbench.models.readout import Readout
from tests.harness.tiny import PROMPTS, TINY, Case
from tests.harness.vocabulary import exact_logits, stream_of

BITS = 2e-5


def read(readout: Readout, normed: Tensor, k: int = 5, **sought: Tensor) -> Reading:
    """The reading of rows by parts, of a model that says what the first row says."""
    model = readout.logits(normed[:1]).expand(len(normed), -1)
    stream = stream_of(readout.in_parts(), model, sought, k)
    return stream.read(Vectors(normed.unsqueeze(1), slice(0, len(normed))))


def counted(logits: Tensor, tokens: Tensor) -> tuple[list[int], list[int]]:
    """Rank and ties of a token of each row, by a look at all others."""
    own = logits.gather(1, tokens.unsqueeze(1))
    return (1 + (logits > own).sum(-1)).tolist(), ((logits == own).sum(-1) - 1).tolist()


def near_ties(n: int, d_model: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A head of tokens that float32 products cannot tell apart, with exact logits that differ.

    Every token is the first one but for one weight, which is some steps of 2^-17 (or none) more.
    All are multiples of that, and states whole numbers, so that float64 sums are exact: 44 bits.
    """
    base = torch.randint(-(2**23), 2**23, (d_model,), generator=generator)
    weights = (base / 2**17).repeat(n, 1)
    steps = torch.randint(-3, 4, (n,), generator=generator)
    where = torch.randint(0, d_model, (n,), generator=generator)
    weights[range(n), where] += steps * 2**-17
    normed = torch.randint(1, 2000, (3, d_model), generator=generator).float()
    return weights.T.contiguous(), normed


@given(st.integers(2, 300), st.integers(4, 200), st.integers(0, 2**16), st.sampled_from([64, 2048]))
def test_near_ties_are_decided_as_float64_has_them(
    n: int, d_model: int, seed: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    W_U, normed = near_ties(n, d_model, generator)
    tokens = torch.randint(0, n, (3,), generator=generator)
    readout = Readout(lambda x: x, W_U, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_TILE_TOKENS", width)
        q = read(readout, normed, k=min(5, n), answer=tokens)
    truth = exact_logits(readout, normed)
    rank, ties = counted(truth, tokens)
    assert of.rank(q, q.seen["answer"]).tolist() == rank
    assert of.ties(q, q.seen["answer"]).tolist() == ties
    k = q.top_ids.shape[1]
    assert torch.equal(q.top_logits, truth.topk(k).values)
    assert torch.equal(truth.gather(1, q.top_ids), q.top_logits)
    assert all(len(set(ids)) == k for ids in q.top_ids.tolist())
    margin = of.margin_bits(q, q.seen["answer"])
    assert (
        (margin > 0) == torch.tensor([r == 1 and t == 0 for r, t in zip(rank, ties, strict=True)])
    ).all()


def test_float32_products_do_not_decide_these() -> None:
    """Or the test above would show nothing."""
    W_U, normed = near_ties(300, 100, torch.Generator().manual_seed(0))
    readout = Readout(lambda x: x, W_U, None)
    tokens = torch.arange(3)
    truth = exact_logits(readout, normed)
    assert counted(readout.logits(normed), tokens) != counted(truth, tokens)


@given(st.integers(0, 2**16), st.sampled_from([None, 4.0]), st.booleans())
def test_ranks_at_any_depth(seed: int, cap: float | None, biased: bool) -> None:
    """Of whatever token, in a vocabulary where most ranks are beyond those decided by the bound."""
    generator = torch.Generator().manual_seed(seed)
    W_U = torch.randn(3000, 24, generator=generator).bfloat16().float()
    bias = torch.randn(3000, generator=generator) if biased else None
    readout = Readout(lambda x: x, W_U.T, bias, 1.0, cap)
    normed = torch.randn(8, 24, generator=generator)
    tokens = torch.randint(0, 3000, (8,), generator=generator)
    tokens[0] = MISSING
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "_FEW", 10)
        q = read(readout, normed, answer=tokens, category=tokens.flip(0))
    truth = exact_logits(readout, normed)
    rank, ties = counted(truth, tokens.clamp(min=0))
    assert of.rank(q, q.seen["answer"])[1:].tolist() == rank[1:]
    assert of.ties(q, q.seen["answer"])[1:].tolist() == ties[1:]
    assert torch.equal(q.top_ids, truth.topk(5).indices)
    log_q = truth.log_softmax(-1)
    entropy = -(log_q.exp() * log_q).sum(-1) / np.log(2)
    kl = (log_q[:1].exp() * (log_q[:1] - log_q)).sum(-1) / np.log(2)
    torch.testing.assert_close(q.entropy_bits, entropy, atol=BITS, rtol=BITS)
    torch.testing.assert_close(q.kl_bits, kl, atol=BITS, rtol=BITS)


def test_equal_tokens_are_ties_at_any_rank() -> None:
    """All of a zero vector's tokens; and of many that are one, more than are kept for the best."""
    W_U = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    W_U[100:300] = W_U[100]
    readout = Readout(lambda x: x, W_U.T, None)
    normed = torch.stack([torch.zeros(16), 3 * W_U[100], -3 * W_U[100]])
    q = read(readout, normed, answer=torch.tensor([7, 150, 299]))
    assert of.rank(q, q.seen["answer"]).tolist() == [1, 1, 301]
    assert of.ties(q, q.seen["answer"]).tolist() == [499, 199, 199]
    assert set(q.top_ids[1].tolist()) <= set(range(100, 300))
    assert q.top_logits[0].tolist() == [0] * 5


@given(st.integers(64, 300), st.integers(0, 2**16), st.sampled_from([0.5, 4.0, 30.0]))
def test_a_soft_cap_makes_no_ties(d_model: int, seed: int, cap: float) -> None:
    """Logits of 12 caps: 1e-10 of a cap below it, and told apart by whole numbers before it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(-40, 41, (d_model,), generator=generator).float()
    W_U = base.repeat(600, 1)
    where = torch.randint(0, d_model, (600,), generator=generator)
    W_U[range(600), where] += torch.randint(-3, 4, (600,), generator=generator)
    normed = base + torch.randint(-3, 4, (3, d_model), generator=generator)
    whole = normed @ W_U.T
    scale = 12 * cap / float(whole.abs().max())
    tokens = torch.randint(0, 600, (3,), generator=generator)
    q = read(Readout(lambda x: x, W_U.T, None, scale, cap), normed, answer=tokens)
    rank, ties = counted(whole, tokens)
    assert of.rank(q, q.seen["answer"]).tolist() == rank
    assert of.ties(q, q.seen["answer"]).tolist() == ties
    assert torch.equal(whole.gather(1, q.top_ids), whole.topk(5).values)


def test_what_ties_as_the_best_has_no_margin() -> None:
    """Sums of the same terms in other orders, whose last bits differ."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(200, generator=generator) * 10.0 ** torch.arange(-10, 10).repeat(10)
    W_U = torch.stack([row[torch.randperm(200, generator=generator)] for _ in range(40)])
    normed = torch.ones(1, 200) * float(row.sum().sign())
    assert len(set(exact_logits(Readout(lambda x: x, W_U.T, None), normed)[0].tolist())) > 1
    for token in range(40):
        q = read(Readout(lambda x: x, W_U.T, None), normed, answer=torch.tensor([token]))
        assert (int(of.rank(q, q.seen["answer"])), int(of.ties(q, q.seen["answer"]))) == (1, 39)
        assert of.margin_bits(q, q.seen["answer"]) == 0


@pytest.mark.parametrize("d_model", [576, 2048])
def test_errors_that_go_one_way_are_no_wrong_rank(d_model: int) -> None:
    """A sum to which each term adds less than it rounds off is 50 roundings off.

    300 tokens are better by 25 roundings, and look worse by 30: too far off to be recomputed as
    near, beyond the first hundred. Where a processor sums in that order, the run stops.
    """
    state = torch.ones(d_model)
    state[0] = 256.0
    small = float(torch.tensor(0.93 * 2.0**-18).bfloat16())  # less than half a step of 64
    others, step = (d_model - 1) * small, 2.0**-17
    better = (0.25 * (1.25 + torch.arange(150) / 600)).bfloat16().float()
    head = torch.zeros(951, d_model)
    head[:150, 0] = better
    head[150:451, 0] = 0.25
    head[150, 1] = round((others - 28 * 256 * 2.0**-23 * 0.36) / step) * step
    head[151:451, 1:] = small
    readout = Readout(lambda x: x, head.T, None)
    normed = state.expand(32, -1).contiguous()
    tokens = torch.full((32,), 150)
    try:
        q = read(readout, normed, answer=tokens)
    except ModelError as error:
        assert "roundings" in str(error)
    else:
        assert of.rank(q, q.seen["answer"]).tolist() == [451] * 32


def test_a_head_that_was_changed_in_place_is_read_as_it_is(llama: Case) -> None:
    """A row that nobody would miss: it is best as it is now, and was nowhere near."""
    model = load_model(llama.folder, device="cpu")
    logit_lens(model, "Rome", products="bfloat16")
    with torch.no_grad():
        model.bridge.original_model.get_output_embeddings().weight[7] *= 3
    wanted = logit_lens(model, "Rome is", lens="raw").to_pandas()
    found = logit_lens(model, "Rome is", lens="raw", products="bfloat16").to_pandas()
    assert 7 in [ids[0] for ids in wanted.top_ids]
    assert [list(ids) for ids in found.top_ids] == [list(ids) for ids in wanted.top_ids]
    np.testing.assert_allclose(found.entropy_bits, wanted.entropy_bits, atol=BITS, rtol=BITS)


def test_products_that_are_further_off_than_allowed_stop_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as those of a device that rounds its sums to bfloat16."""
    plain = parts._summed_in_float32
    monkeypatch.setattr(parts, "_summed_in_float32", lambda a, b: plain(a, b).bfloat16().float())
    W_U = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="--products float32"):
        read(Readout(lambda x: x, W_U.T, None), W_U[:4] * 3, answer=torch.arange(4))


# A soft cap, a bias and a logit scale; every other family too where time is no matter.
QUICK = [("gemma2", "float32"), ("phi", "float32"), ("cohere", "bfloat16")]
SLOW = [(name, d) for name in TINY for d in ("float32", "bfloat16") if (name, d) not in QUICK]


@pytest.mark.parametrize(
    ("name", "dtype"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_every_family_reads_as_with_float32(
    name: str, dtype: str, tiny_case: Callable[[str], Case]
) -> None:
    """Soft caps, scales, biases and norms of all kinds; metrics on request, too."""
    model = load_model(tiny_case(name).folder, dtype=dtype, device="cpu")
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    kinds: dict[str, Any] = {
        "lens": ["final", "raw"],
        "metrics": "js_bits" if name == "gpt2" else (),
    }
    wanted = logit_lens(model, prompts, **kinds).to_pandas()
    found = logit_lens(model, prompts, products="bfloat16", **kinds).to_pandas()
    whole = ["lens", "prompt_id", "position", "layer", "site", "answer_rank", "answer_ties"]
    assert found[whole].equals(wanted[whole])
    assert [list(ids) for ids in found.top_ids] == [list(ids) for ids in wanted.top_ids]
    for column in ("entropy_bits", "kl_bits", "answer_prob", "answer_margin_bits", "js_bits"):
        np.testing.assert_allclose(
            found[column].astype(float), wanted[column].astype(float), atol=BITS, rtol=BITS
        )


def times(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setattr("lensbench.lens.vocabulary.products._times_float32", lambda *_: ratio)


def test_what_is_measured_says_what_is_used(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(llama.folder, device="cpu")
    ids = [model.to_tokens(text)[0].tolist() for text in PROMPTS[:2]]
    here = measured(model, "auto", ids)
    assert here["used"] == ("bfloat16" if here["times_float32"] <= 0.9 else "float32")
    assert here["n_products"] == 6  # random weights: three parts
    assert all(0 <= off < 1e-5 for one in here["errors_bits"].values() for off in one.values())
    assert measured(model, "bfloat16", ids)["used"] == "bfloat16"
    for ratio, used in ((0.3, "bfloat16"), (0.95, "float32"), (3.0, "float32")):
        times(monkeypatch, ratio)
        assert measured(model, "auto", ids)["used"] == used


def test_a_result_says_which_products_it_is_of(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(llama.folder, device="cpu")
    assert logit_lens(model, "Rome").products == {"used": "float32"}
    assert "products" not in repr(logit_lens(model, "Rome"))
    for ratio, used in ((0.3, "bfloat16"), (3.0, "float32")):
        times(monkeypatch, ratio)
        result = logit_lens(model, "Rome", products="auto")
        assert (result.products["used"], result.products["times_float32"]) == (used, ratio)
        assert f"products: {used}; bfloat16 parts take {ratio} x float32 here" in repr(result)
    assert "bfloat16 parts" in repr(logit_lens(model, "Rome", products="bfloat16"))


def test_errors_are_measured_at_late_positions_too(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run reads last positions; the first of a text is like no other."""
    seen, plain = list[Tensor](), Readout.in_float64

    def watched(readout: Readout, normed: Tensor) -> Tensor:
        if normed.dim() == 3:
            seen.append(normed)
        return plain(readout, normed)

    monkeypatch.setattr(Readout, "in_float64", watched)
    model = load_model(llama.folder, device="cpu")
    ids = [model.to_tokens(text)[0].tolist() for text in PROMPTS[:2]]
    measured(model, "bfloat16", ids)
    assert len(seen) == 2 * 4  # positions, by each product
    stream = residual_stream(model, PROMPTS[1], "resid_post").at(model.final_site)
    with torch.inference_mode():
        torch.testing.assert_close(seen[3][0, -1], model.readout.norm(stream[-1:])[0])


def test_auto_reads_in_float32_where_parts_cannot_be_summed(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: torch.device) -> None:
        raise ModelError("no such sums here")

    monkeypatch.setattr(parts, "_require_sums", refuse)
    model = load_model(llama.folder, device="cpu")
    assert measured(model, "auto", [[1, 2]]) == {"used": "float32", "why": "no such sums here"}
    with pytest.raises(ModelError, match="no such sums"):
        logit_lens(model, "Rome", products="bfloat16")
    with pytest.raises(InputProblems, match="float16"):
        logit_lens(model, "Rome", products="float16")
