"""Senses: the shipped sentences, states against plain transformers, and groups that are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from transformers import AutoModel, AutoModelForCausalLM

from lensbench.embeddings.senses.parting import other_words, parting
from lensbench.embeddings.senses.sentences import Sentence, find, load_senses, splits
from lensbench.embeddings.senses.states import Reader, placed, word_states
from lensbench.errors import InputProblems
from lensbench.models.load import load_model
from lensbench.models.text_encoder import load_encoder
from lensbench.prompts.words import words_of
from tests.harness.encoders import save_encoder
from tests.harness.files import write_csv
from tests.harness.tiny import Case


def test_every_shipped_word_has_four_sentences_a_group_and_stands_once_at_the_end() -> None:
    shipped = load_senses()
    assert not shipped.problems
    kinds = {one.word: one.kind for one in shipped.sentences}
    assert Counter(kinds.values()) == {"senses": 20, "subjects": 12}
    groups = Counter((one.word, one.group) for one in shipped.sentences)
    assert len(groups) == 64
    assert set(groups.values()) == {4}
    assert len({one.text for one in shipped.sentences}) == 256
    for one in shipped.sentences:
        assert find(one.word, one.text) == [len(words_of(one.text)) - 1], one.text


def test_halves_hold_as_many_sentences_of_each_subject() -> None:
    sentences = load_senses().sentences
    for split in splits(sentences):
        assert (len(split.a), len(split.b)) == (4, 4)
        subjects = [Counter(sentences[n].group for n in own) for own in (split.a, split.b)]
        if split.kind == "halves":
            assert subjects[0] == subjects[1]
        else:
            assert not set(subjects[0]) & set(subjects[1])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"sentence": "He rowed home."}, "'bank' is not in its sentence"),
        ({"sentence": "A bank is a bank."}, "stands 2 times"),
        ({"sentence": "  "}, "sentence is empty"),
        ({"kind": "thing"}, "the kind is 'thing'"),
        ({"sentence": "He sat on the bank."}, "the sentence is that of row 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, str], told: str) -> None:
    rows = [
        {"word": "bank", "kind": "senses", "group": group, "sentence": sentence}
        for group, sentence in (
            ("river", "He sat on the bank."),
            ("river", "Reeds grow on the bank."),
            ("money", "She robbed the bank."),
            ("money", "Cash lies in the bank."),
        )
    ]
    found = load_senses(str(write_csv(tmp_path / "mine.csv", [*rows, {**rows[0], **row}])))
    assert len(found.sentences) == 4
    assert told in str(found.problems[0])


def test_a_word_of_one_group_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"word": "bank", "kind": "senses", "group": "river", "sentence": f"Sat {n} on the bank."}
        for n in range(3)
    ]
    with pytest.raises(InputProblems, match="not two groups"):
        load_senses(str(write_csv(tmp_path / "mine.csv", rows)))


TEXTS = (("silver", "gold a silver river"), ("mountain", "The mountain"), ("xy9", "river xy9 gold"))
SENTENCES = [Sentence(word, "senses", "a", text, find(word, text)[0]) for word, text in TEXTS]


def own_mean(model: Reader, states: tuple[torch.Tensor, ...], text: str, word: str) -> np.ndarray:
    """By the tokenizer's own offsets, one text at a time."""
    offsets = model.tokenizer(text, return_offsets_mapping=True).offset_mapping
    start = text.index(word)
    own = [i for i, (a, b) in enumerate(offsets) if a < start + len(word) and b > start]
    return torch.stack([one[0, own].mean(0) for one in states]).numpy()


def test_states_of_an_encoder_are_those_of_transformers(tmp_path: Path) -> None:
    folder = save_encoder("bert", tmp_path / "tiny")
    model = load_encoder(folder, "cpu")
    items, problems = placed(model, SENTENCES, "mine")
    assert not problems
    assert len(items[2].positions) == 3  # several tokens
    found = word_states(model, items, batch_tokens=8)
    hf = AutoModel.from_pretrained(folder).eval()
    for row, (word, text) in enumerate(TEXTS):
        with torch.no_grad():
            own = hf(**model.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = own_mean(model, own.hidden_states, text, word)
        assert np.allclose(found[:, row], expected, atol=1e-5)


def test_states_of_a_causal_model_are_those_of_transformers(llama: Case) -> None:
    model = load_model(str(llama.folder), device="cpu")
    items, problems = placed(model, SENTENCES, "mine")
    assert not problems
    found = word_states(model, items, batch_tokens=8)
    hf = AutoModelForCausalLM.from_pretrained(llama.folder).eval()
    for row, (word, text) in enumerate(TEXTS):
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            own = hf(ids, output_hidden_states=True).hidden_states
        # The last of them is behind the final norm: before it is the last block's own.
        expected = own_mean(model, own, text, word)
        assert np.allclose(found[:-1, row], expected[:-1], atol=1e-4)
    seen: list[torch.Tensor] = []
    hook = hf.model.layers[-1].register_forward_hook(
        lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        hf(model.tokenizer(TEXTS[0][1], return_tensors="pt").input_ids)
    hook.remove()
    expected = own_mean(model, (seen[0].reshape(1, -1, seen[0].shape[-1]),), TEXTS[0][1], "silver")
    assert np.allclose(found[-1, 0], expected[0], atol=1e-4)


def test_partings_are_those_of_loops_over_pairs() -> None:
    rng = np.random.default_rng(2)
    states = rng.normal(size=(2, 9, 12))
    states[1, [0, 2, 4]] += 1.0
    a, b = (0, 2, 4), (1, 3, 5, 7)
    found = parting(states, a, b)
    for layer, own in enumerate(states):
        cos = cosine_similarity(own)
        within = [cos[i, j] for group in (a, b) for i in group for j in group if i != j]
        between = [cos[i, j] for i in a for j in b]
        assert found.within[layer] == pytest.approx(np.mean(within))
        assert found.between[layer] == pytest.approx(np.mean(between))
        unit = own / np.linalg.norm(own, axis=1, keepdims=True)
        right = []
        for i in a:
            for j in b:
                centres = [unit[[k for k in g if k not in (i, j)]].mean(0) for g in (a, b)]
                near = cosine_similarity(unit[[i, j]], np.stack(centres))
                right += [near[0, 0] > near[0, 1], near[1, 1] > near[1, 0]]
        assert found.accuracy[layer] == pytest.approx(np.mean(right))
    assert found.separation[1] > found.separation[0]


def test_groups_apart_are_told_and_equal_vectors_are_a_tie() -> None:
    apart = np.zeros((1, 8, 3))
    apart[0, :4, 0] = apart[0, 4:, 1] = 1.0
    told = parting(apart, range(4), range(4, 8))
    assert (told.accuracy[0], told.separation[0]) == pytest.approx((1.0, 1.0))
    alike = parting(np.ones((1, 8, 3)), range(4), range(4, 8))
    assert (alike.accuracy[0], alike.separation[0]) == pytest.approx((0.5, 0.0))


def test_of_noise_the_accuracy_is_a_half() -> None:
    """Leaving out one sentence alone would give less: its group's centroid would be of fewer."""
    noise = np.random.default_rng(4).normal(size=(4000, 8, 20))
    assert parting(noise, range(4), range(4, 8)).accuracy.mean() == pytest.approx(0.5, abs=0.01)


def test_other_words_are_pairs_of_different_words() -> None:
    states = np.random.default_rng(6).normal(size=(2, 5, 4)) + 1
    words = ["a", "b", "a", "c", "b"]
    apart = [(i, j) for i in range(5) for j in range(5) if words[i] != words[j]]
    for layer, own in enumerate(states):
        expected = np.mean([cosine_similarity(own)[pair] for pair in apart])
        assert other_words(states, words)[layer] == pytest.approx(expected)
