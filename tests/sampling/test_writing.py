"""Texts beside transformers' own generate and plain passes; and how far draws are from chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
import torch
from nltk.translate.bleu_score import sentence_bleu
from scipy.stats import chisquare

import lensbench as lb
from lensbench.errors import ModelError
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.sampling.diversity import distinct, repeated, self_bleu, words
from lensbench.sampling.filters import filtered
from lensbench.sampling.measured import text_row
from lensbench.sampling.model import read
from lensbench.sampling.settings import setting_of, settings_of
from lensbench.sampling.writing import Written, cache_error_bits, uniforms, write
from tests.harness.adapted import adapted, alone, prompts_of, with_ends
from tests.harness.tiny import Case

N_NEW = 12
SETTINGS = settings_of(["greedy", "T=1", "T=1.5 top-p=0.9", "top-k=5", "min-p=0.1", "penalty=1.3"])


@pytest.fixture(scope="module")
def model(llama: Case) -> AdaptedModel:
    return with_ends(adapted(llama), N_NEW)


def written(model: AdaptedModel, ids: list[int], names: list[str], n: int = 3) -> list[Written]:
    start = read(model, tuple(ids), follow=True)
    return write(model, start, settings_of(names), uniforms(0, "p", n, N_NEW))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "mistral"])
def test_greedy_texts_are_those_of_transformers_generate(name: str, tiny_case: object) -> None:
    model = with_ends(adapted(tiny_case(name)), N_NEW)  # type: ignore[operator]
    for ids in prompts_of(model):
        greedy, penalised, *_ = written(model, ids, ["greedy", "greedy penalty=1.3", "T=1"])
        assert list(greedy.token_ids) == alone(model, ids, N_NEW)
        assert list(penalised.token_ids) == alone(model, ids, N_NEW, repetition_penalty=1.3)
        assert (greedy.finish_reason == "stop") == (len(greedy.token_ids) < N_NEW)


def test_bits_are_those_of_a_plain_pass_without_filters(model: AdaptedModel) -> None:
    ids = prompts_of(model)[0]
    for text in written(model, ids, [one.name for one in SETTINGS]):
        whole = torch.tensor([[*ids, *text.token_ids]])
        with torch.no_grad():
            logits = model.base(whole).logits[0, len(ids) - 1 : -1].double()
        own = logits.log_softmax(-1).gather(1, whole[0, len(ids) :, None])[:, 0] / -math.log(2)
        assert text.bits == pytest.approx(own.tolist(), abs=1e-3)
        assert cache_error_bits(model, ids, text) < 1e-3


def test_the_gate_sees_bits_that_are_not_the_models(model: AdaptedModel) -> None:
    ids = prompts_of(model)[0]
    text = written(model, ids, ["T=1"])[0]
    other = Written("T=1", 0, "", text.token_ids, tuple(b + 0.5 for b in text.bits), "length")
    assert cache_error_bits(model, ids, other) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", ["T=1", "T=1.5 top-p=0.8", "top-k=4", "T=2 min-p=0.05"])
def test_draws_have_the_probabilities_of_the_setting(model: AdaptedModel, name: str) -> None:
    n, setting = 4000, setting_of(name)
    start = read(model, tuple(prompts_of(model)[0]), follow=True)
    shares = filtered(start.logits[None], torch.tensor([start.token_ids]), setting)[0].softmax(-1)
    texts = write(model, start, [setting], uniforms(7, "p", n, 1))
    counts = np.bincount([text.token_ids[0] for text in texts], minlength=len(shares))
    expected = n * shares.double().numpy()
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    assert often.sum() > 1
    seen, told = counts[often], expected[often]
    rest = [counts[~often].sum()], [expected[~often].sum()]
    if rest[1][0] >= 1:
        seen, told = np.append(seen, rest[0]), np.append(told, rest[1])
    assert chisquare(seen, told * seen.sum() / told.sum()).pvalue > 1e-3


def test_a_text_does_not_depend_on_what_is_written_beside_it(model: AdaptedModel) -> None:
    ids = prompts_of(model)[0]
    together = written(model, ids, [one.name for one in SETTINGS])
    for setting in SETTINGS:
        own = [text.token_ids for text in together if text.setting == setting.name]
        assert [text.token_ids for text in written(model, ids, [setting.name])] == own


def test_the_same_seed_writes_the_same_and_another_does_not(model: AdaptedModel) -> None:
    def texts(seed: int) -> list[str]:
        found = lb.sample(
            model, "The river", ["T=1", "T=1.2"], texts=3, max_new_tokens=9, seed=seed
        )
        return found.written["text"].tolist()

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)


def test_a_draw_has_the_same_luck_in_every_setting(model: AdaptedModel) -> None:
    """Filters that leave everything in give the text of no filter."""
    found = written(model, prompts_of(model)[1], ["T=1", "top-k=384", "min-p=1e-12"])
    own = [text.token_ids for text in found if text.setting == "T=1"]
    assert own == [text.token_ids for text in found if text.setting == "top-k=384"]
    assert len(set(own)) > 1


def test_nan_that_comes_with_a_written_token_is_an_error(llama: Case) -> None:
    own = adapted(llama)
    ids = prompts_of(own)[0]
    (greedy,) = written(own, ids, ["greedy"])
    first = greedy.token_ids[0]
    assert first not in ids
    table = own.base.get_input_embeddings()
    table.weight = torch.nn.Parameter(table.weight.detach().clone())  # the head keeps its own
    with torch.no_grad():
        table.weight[first] = math.nan
    read(own, tuple(ids))
    with pytest.raises(ModelError, match="NaN or Inf"):
        written(own, ids, ["greedy"])


# --- how texts repeat ---------------------------------------------------------------------------


def test_distinct_and_repeated_n_grams_by_hand() -> None:
    texts = [words("The cat sat. The cat ran."), words("A cat sat")]
    assert texts[0] == ["the", "cat", "sat", "the", "cat", "ran"]
    assert distinct(texts, 1) == 5 / 9
    assert distinct(texts, 2) == 5 / 7
    assert distinct([["a"]], 2) is None
    assert repeated(words("a b c d a b c d")) == pytest.approx(1 / 5)
    assert repeated(words("a b c")) is None


def test_words_of_a_script_without_spaces_are_its_characters() -> None:
    """A sentence is no word: a repeated one would be called two different ones, or none."""
    text = "我爱人工智能。我爱人工智能。"
    assert words(text) == list("我爱人工智能") * 2
    assert words("I love 我爱") == ["i", "love", "我", "爱"]
    assert words("ที่นี่") == ["ที่", "นี่"]
    assert distinct([words(text)], 1) == 6 / 12
    assert repeated(words(text)) == pytest.approx(3 / 9)
    assert self_bleu([text, text]) == pytest.approx(100)
    assert self_bleu(["我爱你们。", "我爱他们。"]) == pytest.approx(
        sacrebleu.sentence_bleu(
            "我爱你们。", ["我爱他们。"], tokenize="zh", use_effective_order=True
        ).score
    )
    row = text_row(Written("T=1", 0, text, (1, 2), (1.0, 2.0), "length"))
    assert (row["n_words"], row["n_tokens"]) == (12, 2)


def test_self_bleu_is_the_librarys_and_nltks() -> None:
    texts = [
        "the cat sat on the mat and slept all day",
        "the cat sat on the mat and ran all day",
        "a cat sat on the mat and slept all night",
    ]
    by_hand = np.mean(
        [sentence_bleu([o.split() for o in texts if o != text], text.split()) for text in texts]
    )
    assert self_bleu(texts) == pytest.approx(100 * by_hand)
    others = [texts[1], texts[2]]
    first = sacrebleu.sentence_bleu(texts[0], others, use_effective_order=True).score
    assert 0 < first < 100
    assert self_bleu([texts[0]] * 3) == pytest.approx(100)
    assert self_bleu([texts[0]]) is None
    assert self_bleu([texts[0], "..."]) is None
    assert self_bleu(["one two three four five", "six seven eight nine ten"]) < 10
