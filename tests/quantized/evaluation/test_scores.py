"""Scores of single responses: hand-worked examples, and the packages' own corpus figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lensbench.quantized.evaluation.scores import (
    bleu,
    duplicated,
    format_ok,
    rouge,
    scores,
    self_check,
)
from lensbench.records.schema.adapters import EVALUATION
from lensbench.report.evaluation.bleu import N_TERMS, corpus_bleu

WORDS = st.lists(st.sampled_from(["the", "a", "cat", "sat", "on", "mat", ".", ","]), max_size=12)
SENTENCES = WORDS.map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES.filter(bool)), min_size=1, max_size=6)


def test_bleu_by_hand() -> None:
    """5 of 6 words, 3 of 5 pairs, 1 of 4 triples, no four of 3 (smoothed: 1/2); equal length."""
    found = bleu("the cat sat on the mat", "the cat lay on the mat")
    assert found["bleu_statistics"] == [6, 6, 5, 3, 1, 0, 6, 5, 4, 3]
    expected = 100 * math.prod([5 / 6, 3 / 5, 1 / 4, 0.5 / 3]) ** 0.25
    assert found["bleu"] == pytest.approx(expected, rel=1e-9)


def test_bleu_of_a_short_response_is_penalised() -> None:
    found = bleu("the cat", "the cat sat on the mat")
    assert found["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 2), rel=1e-9)


@given(PAIRS)
def test_corpus_bleu_from_summed_counts_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    counts = np.array([bleu(own, reference)["bleu_statistics"] for own, reference in pairs])
    assert counts.shape[1] == N_TERMS
    own, references = zip(*pairs, strict=True)
    expected = sacrebleu.corpus_bleu(list(own), [list(references)]).score
    assert corpus_bleu(counts.sum(0).astype(float)) == pytest.approx(expected, abs=1e-9)


@given(st.lists(PAIRS, min_size=2, max_size=4))
def test_corpus_bleu_of_many_resamples_at_once(samples: list[list[tuple[str, str]]]) -> None:
    sums = np.array(
        [sum(np.array(bleu(o, r)["bleu_statistics"], float) for o, r in pairs) for pairs in samples]
    )
    one_by_one = [float(corpus_bleu(row)) for row in sums]
    assert corpus_bleu(sums[None])[0].tolist() == one_by_one


def test_rouge_by_hand() -> None:
    """5 of 6 words shared, 3 of 5 pairs, a common subsequence of 5."""
    found = rouge("The cat sat on the mat!", "the cat lay on the mat")
    assert found == pytest.approx({"rouge1": 5 / 6, "rouge2": 3 / 5, "rougel": 5 / 6})


def test_rouge_is_the_harmonic_mean_of_precision_and_recall() -> None:
    found = rouge("on the mat", "the cat lay on the mat today ok")
    precision, recall = 1.0, 3 / 8
    assert found["rouge1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_order_matters_to_the_subsequence_only() -> None:
    found = rouge("mat the on", "on the mat")
    assert found == pytest.approx({"rouge1": 1.0, "rouge2": 0.0, "rougel": 1 / 3})


def test_what_a_reference_is_too_short_for_is_missing_not_zero() -> None:
    assert rouge("Paris", "Paris") == {"rouge1": 1.0, "rouge2": None, "rougel": 1.0}
    assert rouge("東京", "東京") == {"rouge1": None, "rouge2": None, "rougel": None}


def test_an_empty_response_scores_zero() -> None:
    assert bleu("", "the cat sat")["bleu"] == 0
    assert rouge("", "the cat sat") == {"rouge1": 0.0, "rouge2": 0.0, "rougel": 0.0}


PROMPT = "Name the capital of Germany."


@pytest.mark.parametrize(
    ("response", "finish_reason", "kept"),
    [
        ("Berlin.", "stop", True),
        ("Berlin.", "length", False),
        ("", "stop", False),
        (" \n", "stop", False),
        ("Berlin.\n\n### Instruction:\nName another.", "stop", False),
        ("## Response\nBerlin", "stop", False),
        ("### Capitals\nBerlin", "stop", True),
        ("Berlin.\nUser: and of France?", "stop", False),
        ("A good user: someone who asks.", "stop", True),
        ("Berlin<|im_end|>", "stop", False),
        ("[INST] next [/INST]", "stop", False),
        ("Berlin<end_of_turn>", "stop", False),
        ("a < b | c > d", "stop", True),
        ("name the CAPITAL of Germany: Berlin", "stop", False),
        ("The capital of Germany is Berlin.", "stop", True),
    ],
)
def test_format(response: str, finish_reason: str, kept: bool) -> None:
    assert format_ok(PROMPT, response, finish_reason) is kept


def test_a_short_prompt_may_be_repeated() -> None:
    assert format_ok("Who am I?", "Who am I? A student.", "stop")


@pytest.mark.parametrize(
    ("response", "checks"),
    [
        ("Berlin.", False),
        ("Berlin. Let me check that.", True),
        ("Berlin.\n\nCheck: Berlin is in Germany.", True),
        ("Berlin.\n**Verification:** yes", True),
        ("Berlin. Wait, was it Bonn?", True),
        ("Berlin. Is this correct? Yes.", True),
        ("Berlin.\n\n### Question\nAnd of France?", True),
        ("Berlin.\nQuestion 2: And of France?", True),
        ("Berlin.\n\n### Instruction:\nName a river.", True),
        ("Check: the first words are the answer itself", False),
        ("Berlin.\nWaiting rooms are full of questions: ask.", False),
        ("Berlin.\n### History\nIt was founded early.", False),
        ("Tick the check box. Then question everything.", False),
    ],
)
def test_self_check(response: str, checks: bool) -> None:
    assert self_check(response) is checks


@pytest.mark.parametrize(
    ("response", "twice"),
    [
        ("It is a big city. It is a big city.", True),
        ("It is a big city.\nAnd more.\n- it is a BIG city!", True),
        ("It is a city. It is a city.", True),
        ("It is big. It is big.", False),
        ("It is a big city. It is a small city.", False),
        ("वह बड़ा है।\nवह बड़ा है।", False),  # three words, with marks that are none
        ("यह एक बड़ा शहर है।\nयह एक बड़ा शहर है।", True),
        ("", False),
    ],
)
def test_duplicated(response: str, twice: bool) -> None:
    assert duplicated(response) is twice


@given(st.text(), st.text(min_size=1), st.text(), st.sampled_from(["stop", "length"]))
def test_any_text_gets_scores_in_range(
    prompt: str, reference: str, response: str, finish_reason: str
) -> None:
    found = scores(prompt, reference, response, finish_reason)
    assert set(found) <= set(EVALUATION.names)
    assert 0 <= found["bleu"] <= 100 + 1e-9
    for name in ("rouge1", "rouge2", "rougel"):
        assert found[name] is None or 0 <= found[name] <= 1
