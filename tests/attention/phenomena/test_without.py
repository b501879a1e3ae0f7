"""What is lost of a word without a head: hooks in plain transformers, and a hand-made world."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensbench.attention.causal.tables import Ablator
from lensbench.attention.phenomena.asking import Asked
from lensbench.attention.phenomena.questions import compiled, questions
from lensbench.attention.phenomena.without import phenomenon_ablation_table, word_losses
from lensbench.prompts.gold import Pair
from lensbench.prompts.words import Alignment, Span
from lensbench.records.schema.phenomena import PHENOMENA
from lensbench.stats.halves import halves
from tests.harness.ablated import Plain
from tests.harness.tiny import Case

# Two sentences of nine and of five tokens, and the tokens of their words. In the second the later
# word ends the sentence.
IDS = [(7, 4, 31, 12, 9, 55, 21, 3, 18), (6, 44, 13, 27, 90)]
WORDS = [[(1,), (2, 3), (4,), (5, 6), (7,)], [(1,), (2,), (3, 4)]]
PAIRS = [[Pair("subject-verb", 1, 3), Pair("verb-object", 2, 1)], [Pair("subject-verb", 0, 2)]]


def sentence(number: int) -> Asked:
    words = WORDS[number]
    alignment = Alignment([Span(2 * i, 2 * i + 1) for i in range(len(words))], words, [])
    own = questions(PAIRS[number], alignment)
    made = compiled(own, alignment, len(IDS[number]))
    return Asked(f"s{number}", IDS[number], tuple(own), made)


@pytest.mark.parametrize("batch_tokens", [1, 512])
def test_losses_of_words_are_those_of_hooks_in_plain_transformers(
    gpt2: Case, batch_tokens: int
) -> None:
    asked = [sentence(0), sentence(1)]
    ablator = Ablator(gpt2.model, [], IDS, batch_tokens)
    found = word_losses(ablator, asked)
    assert not found.problems
    rows = found.tables["word_losses"].to_pylist()
    kinds = [(row["prompt_id"], row["phenomenon"], row["predicted"]) for row in rows]
    assert kinds == [
        ("s0", "subject-verb", "word"),
        ("s0", "subject-verb", "rest"),
        ("s0", "verb-object", "word"),
        ("s0", "verb-object", "rest"),
        ("s1", "subject-verb", "word"),  # nothing stands behind it
    ]
    plain = Plain(gpt2)
    means = plain.means(IDS)
    for head in [(0, 1), (1, 3), (2, 0)]:
        column = head[0] * gpt2.model.n_heads + head[1]
        for row in rows:
            number = int(row["prompt_id"][1:])
            ids, word = IDS[number], WORDS[number][row["query"]]
            places = word if row["predicted"] == "word" else range(word[-1] + 1, len(ids))
            clean = plain.logits(ids).log_softmax(-1)
            with plain.without([head], means):
                without = plain.logits(ids).log_softmax(-1)
            lost = [float(clean[i - 1, ids[i]] - without[i - 1, ids[i]]) for i in places]
            expected = sum(lost) if row["predicted"] == "word" else sum(lost) / len(lost)
            assert row["change_bits"][column] == pytest.approx(expected / math.log(2), abs=2e-3)
    assert np.abs([row["change_bits"] for row in rows]).max() > 0.01


PLACES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
BEST = 4  # 1.1
N_SENTENCES = 40


def world(lost: float) -> tuple[pd.DataFrame, pa.Table, pd.DataFrame]:
    """Head 1.1 finds the word; without it `lost` bits more than without others are lost of it.

    On the half by which heads are chosen there stand numbers that would be noticed.
    """
    rng = np.random.default_rng(0)
    names = [f"s{i:02d}" for i in range(N_SENTENCES)]
    first, _ = halves(names, 0) or ([], [])
    answers = pd.DataFrame(
        {
            "who": "trained",
            "prompt_id": names,
            "weighting": "plain",
            "phenomenon": "verb-object",
            "direction": "back",
            "query": 4,
            "offset": -2,
        }
    )
    bits = rng.normal(0.2, 0.1, (N_SENTENCES, len(PLACES)))
    bits[:, BEST] += lost
    bits[first] = 99
    losses = answers.assign(predicted="word", change_bits=list(bits))
    best = {"model": "m", "weighting": "plain", "phenomenon": "verb-object", "direction": "back"}
    told = pa.Table.from_pylist([best | {"block": 1, "head": 1}], PHENOMENA.schema)
    return answers, told, losses


def test_a_head_that_is_needed_is_told_from_the_others_of_its_block() -> None:
    answers, told, losses = world(0.5)
    word, rest = phenomenon_ablation_table(answers, told, losses, PLACES, 0).to_pylist()
    bits = np.stack(losses["change_bits"].to_list())
    held = bits[bits[:, 0] != 99]
    assert len(held) == word["n_questions"] == word["n_sentences"] == N_SENTENCES // 2
    assert word["change_bits"] == pytest.approx(held[:, BEST].mean())
    assert word["others_bits"] == pytest.approx(held[:, [3, 5]].mean())
    assert word["above_others_bits"] == pytest.approx(held[:, BEST].mean() - held[:, [3, 5]].mean())
    assert 0.3 < word["above_others_bits_low"] < word["above_others_bits"]
    assert word["share_below"] == 1.0
    assert word["reason"] is None
    assert rest["change_bits"] is None
    assert rest["n_questions"] == 0
    assert "no such text in the other half" in rest["reason"]


def test_by_chance_a_head_is_surely_needed_no_more_often_than_intervals_say() -> None:
    sure, below = 0, []
    answers, told, losses = world(0.0)
    for seed in range(40):
        bits = np.random.default_rng(seed).normal(0.2, 0.1, (N_SENTENCES, len(PLACES)))
        own = losses.assign(change_bits=list(bits))
        word, _ = phenomenon_ablation_table(answers, told, own, PLACES, 0).to_pylist()
        sure += word["above_others_bits_low"] > 0
        below.append(word["share_below"])
    assert sure <= 4  # 1 expected
    assert np.mean(below) == pytest.approx(0.5, abs=0.15)


def test_a_block_of_one_head_has_no_others_and_few_sentences_give_a_reason() -> None:
    answers, told, losses = world(0.5)
    places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (0, 4)]
    word, _ = phenomenon_ablation_table(answers, told, losses, places, 0).to_pylist()
    assert word["change_bits"] is not None
    assert word["others_bits"] is None
    assert word["above_others_bits_low"] is None
    why = {"block": None, "head": None, "reason": "3 sentences: 4 or more make two halves"}
    few = pa.Table.from_pylist([told.to_pylist()[0] | why], PHENOMENA.schema)
    for row in phenomenon_ablation_table(answers[:3], few, losses, places, 0).to_pylist():
        assert row["change_bits"] is None
        assert row["share_below"] is None
        assert row["reason"] == why["reason"]
