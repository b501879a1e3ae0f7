"""Batching changes nothing: padded on either side, in any company, a prompt reads the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench import Prompt, logit_lens
from lensbench.lens.metrics import Distribution
from lensbench.models.model import LensModel
from lensbench.prompts.batch import PaddingSide, make_batch, plan_batches
from lensbench.residuals.capture import capture
from tests.harness.tiny import PROMPTS, Case

KEY = ["prompt_id", "site", "layer", "position"]
NUMBERS = ["entropy_bits", "kl_bits", "answer_prob", "next_surprisal_bits", "cos_final"]
# The same sums in another order: float32 roundings of 1e-6 on logits of magnitude 30.
TOLERANCE = 5e-5

lengths = st.lists(st.integers(1, 700), max_size=60)
token_lists = st.lists(st.lists(st.integers(1, 383), min_size=1, max_size=12), min_size=1)


def read(case: Case, prompts: list[Prompt], side: PaddingSide, batch_tokens: int) -> pd.DataFrame:
    result = logit_lens(
        case.model,
        prompts,
        sites=("embed", "resid_mid", "resid_post"),
        padding_side=side,
        batch_tokens=batch_tokens,
    )
    return result.to_pandas().sort_values(KEY, ignore_index=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_padded_batch_equals_one_prompt_at_a_time(family: Case, side: PaddingSide) -> None:
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    assert len({len(ids) for ids in family.token_ids}) > 2
    together = read(family, prompts, side, batch_tokens=10_000)
    alone = pd.concat([read(family, [prompt], "right", batch_tokens=1) for prompt in prompts])
    alone = alone.sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(together[[*KEY, "token_id"]], alone[[*KEY, "token_id"]])
    for name in NUMBERS:
        np.testing.assert_allclose(together[name], alone[name], atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(together.resid_norm, alone.resid_norm, rtol=1e-5)
    assert [list(ids) for ids in together.top_ids] == [list(ids) for ids in alone.top_ids]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_in_the_padding_does_not_matter(llama: Case, side: PaddingSide) -> None:
    ids = llama.token_ids
    logits = []
    for pad_id in (0, 200):
        batch = make_batch(range(len(ids)), ids, side, pad_id)
        cells = [(row, batch.column(row, -1)) for row in range(len(ids))]
        residuals = capture(llama.model, batch, llama.model.sites(), cells)
        logits.append(residuals.model_logits(slice(None)))
    assert torch.equal(logits[0], logits[1])


def test_order_of_prompts_does_not_matter(llama: Case) -> None:
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    forward = read(llama, prompts, "right", batch_tokens=20)
    backward = read(llama, prompts[::-1], "right", batch_tokens=20)
    pd.testing.assert_frame_equal(forward, backward)


def test_groups_of_cells_do_not_change_the_numbers(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary is read in smaller groups; the smallest is one cell."""
    whole = read(llama, [Prompt("p", PROMPTS[2], answer="Berlin")], "right", 512)
    monkeypatch.setattr("lensbench.models.readout._LOGITS_BYTES", 1)
    monkeypatch.setattr("lensbench.lens.vocabulary.stream.ROWS", 1)
    cell_by_cell = read(llama, [Prompt("p", PROMPTS[2], answer="Berlin")], "right", 512)
    assert list(whole.columns) == list(cell_by_cell.columns)
    for name in NUMBERS:
        np.testing.assert_allclose(whole[name], cell_by_cell[name], atol=TOLERANCE)


@pytest.mark.real
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_demo_model_in_a_padded_batch(smollm: LensModel, side: PaddingSide) -> None:
    texts = ["The capital of Germany is", "Gold", "One, two, three, four, five, six, seven,"]
    ids = [smollm.tokenizer(text).input_ids for text in texts]
    batch = make_batch(range(3), ids, side)
    cells = [(row, batch.column(row, -1)) for row in range(3)]
    together = capture(smollm, batch, [], cells).model_logits(slice(None))
    for row in range(3):
        single = make_batch([0], [ids[row]])
        alone = capture(smollm, single, [], [(0, len(ids[row]) - 1)]).model_logits(slice(None))
        p, q = (Distribution.from_logits(x) for x in (alone, together[row : row + 1]))
        assert (p.log_probs - q.log_probs).abs().max() < 1e-3


@given(lengths, st.integers(1, 600))
def test_a_plan_holds_every_prompt_once_within_the_budget(sizes: list[int], budget: int) -> None:
    plan = plan_batches(sizes, budget)
    assert sorted(item for batch in plan for item in batch) == list(range(len(sizes)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * max(sizes[item] for item in batch) <= budget
    in_order = [sizes[item] for batch in plan for item in batch]
    assert in_order == sorted(in_order)


@given(lengths, st.integers(1, 600))
def test_a_plan_is_full(sizes: list[int], budget: int) -> None:
    """No batch could take the next prompt too: otherwise time is wasted."""
    plan = plan_batches(sizes, budget)
    for batch, following in pairwise(plan):
        assert (len(batch) + 1) * sizes[following[0]] > budget


@given(lengths, st.integers(1, 600))
def test_a_plan_depends_on_the_lengths_alone(sizes: list[int], budget: int) -> None:
    assert plan_batches(sizes, budget) == plan_batches(tuple(sizes), budget)


@given(token_lists, st.sampled_from(["left", "right"]))
def test_a_batch_gives_each_prompt_back(ids: list[list[int]], side: PaddingSide) -> None:
    batch = make_batch(range(len(ids)), ids, side)
    assert batch.token_ids.shape == (len(ids), max(len(row) for row in ids))
    for row, wanted in enumerate(ids):
        kept = batch.attention_mask[row].bool()
        assert batch.token_ids[row][kept].tolist() == wanted
        assert batch.position_ids[row][kept].tolist() == list(range(len(wanted)))
        assert kept[-1 if side == "left" else 0]
        for position, token in enumerate(wanted):
            assert batch.token_ids[row, batch.column(row, position)] == token
            from_end = position - len(wanted)
            assert batch.column(row, from_end) == batch.column(row, position)


def test_a_batch_takes_the_rows_it_is_given() -> None:
    batch = make_batch([2, 0], [[5], [6, 7], [8, 9, 10]])
    assert batch.items == [2, 0]
    assert batch.token_ids.tolist() == [[8, 9, 10], [5, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
