"""The shipped sentences: each named word stands where it is said to, and is of its kind."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from lensbench.prompts.gold import PHENOMENA, Pair, gold_pairs
from lensbench.prompts.prompt import Prompt
from lensbench.prompts.sets import load_prompts

CATEGORIES = [
    *("simple", "complex", "long-range", "coreference", "negation"),
    *("question", "technical", "ambiguous", "comparative", "temporal"),
]
# Closed classes of English: what the first word of each pair may be.
KINDS = {
    "determiner-noun": "a an any the this that these those each every all many most several which",
    "preposition-object": "about above across after against along among at before behind beside "
    "between by during for from in into near of on since through to under unlike with within "
    "without",
    "pronoun-antecedent": "he him his she her herself himself it its itself they them their",
    "negation-scope": "not never no nobody none neither nor cannot hardly without",
}


def sentences() -> list[Prompt]:
    return load_prompts("sentences").prompts


def pairs_of(prompt: Prompt) -> list[Pair]:
    pairs, problems = gold_pairs(prompt, "sentences")
    assert problems == []
    return pairs


def words(text: str) -> list[str]:
    """The words as they stand between spaces, without the punctuation around them."""
    return [word.strip(",.;:?!'") for word in text.split()]


def test_every_category_has_enough_sentences_of_its_own() -> None:
    counts = Counter(prompt.relation for prompt in sentences())
    assert list(counts) == CATEGORIES
    assert min(counts.values()) >= 12
    texts = [prompt.prompt for prompt in sentences()]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert max(Counter(text.split()[0] for text in texts).values()) <= 0.4 * len(texts)
    assert all(prompt.id.startswith(prompt.relation) for prompt in sentences())
    assert all(
        (text[-1] == "?") == (one.relation == "question")
        for text, one in zip(texts, sentences(), strict=True)
    )


@pytest.mark.parametrize("prompt", sentences(), ids=lambda prompt: prompt.id)
def test_a_pair_names_words_where_they_stand(prompt: Prompt) -> None:
    """Read again in another way: by counting words between spaces."""
    written = [part.strip() for part in prompt.extra["pairs"].split(";")]
    pairs = pairs_of(prompt)
    assert len(set(written)) == len(written) == len(pairs)
    said = words(prompt.prompt)
    for text, pair in zip(written, pairs, strict=True):
        phenomenon, rest = text.split(": ")
        assert pair.phenomenon == phenomenon
        named = re.split(" [>!] ", rest)
        places = [pair.dependent, pair.head, *([pair.distractor] if " ! " in rest else [])]
        for name, place in zip(named, places, strict=True):
            word, _, which = name.partition("/")
            assert said[place] == word
            assert said[: place + 1].count(word) == int(which or 1)
            assert which or said.count(word) == 1


def test_the_first_word_of_a_pair_is_of_its_kind() -> None:
    for prompt in sentences():
        said = [word.casefold() for word in words(prompt.prompt)]
        for pair in pairs_of(prompt):
            if pair.phenomenon not in KINDS:
                continue
            backwards = pair.phenomenon == "preposition-object"
            word = said[pair.head if backwards else pair.dependent]
            assert word in KINDS[pair.phenomenon].split(), (prompt.id, pair)
            twin = pair.phenomenon in ("determiner-noun", "preposition-object")
            if twin and pair.distractor is not None:  # of the same kind
                assert said[pair.distractor] in KINDS[pair.phenomenon].split(), (prompt.id, pair)


def test_what_could_be_the_answer_stands_before_the_question_and_is_another() -> None:
    """A causal model can only look back: a distractor behind both words would never be seen."""
    n = Counter[str]()
    for prompt in sentences():
        own = defaultdict(set)
        for pair in pairs_of(prompt):
            own[pair.phenomenon, pair.later].add(pair.earlier)
        for pair in pairs_of(prompt):
            if pair.distractor is not None:
                assert pair.distractor < pair.later, (prompt.id, pair)
                assert pair.distractor not in own[pair.phenomenon, pair.later], (prompt.id, pair)
                n[pair.phenomenon] += 1
    assert n["subject-verb"] >= 50
    assert n["pronoun-antecedent"] >= 20
    assert min(n[phenomenon] for phenomenon in PHENOMENA if phenomenon != "negation-scope") >= 20


def test_every_phenomenon_has_sentences_for_two_halves() -> None:
    n = Counter(name for one in sentences() for name in {p.phenomenon for p in pairs_of(one)})
    assert set(n) == set(PHENOMENA)
    assert min(n.values()) >= 25


def test_pairs_that_a_causal_model_can_only_ask_the_other_way_are_few_but_there() -> None:
    """A noun after its pronoun, an object before its verb; determiners always stand before."""
    usual = {"subject-verb": False, "determiner-noun": False, "negation-scope": False}
    turned = Counter(
        pair.phenomenon
        for one in sentences()
        for pair in pairs_of(one)
        if pair.head_first != usual.get(pair.phenomenon, True)
    )
    assert set(turned) == {"subject-verb", "verb-object", "pronoun-antecedent"}
    assert turned.total() <= 8


# --- rows of one's own ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("subject-verb dogs bark", "this is no gold pair"),
        ("subject: dogs > bark", "there is no phenomenon 'subject'"),
        ("subject-verb: cats > bark", "'cats' is no word of the sentence"),
        ("determiner-noun: the > dogs", "'the' stands there 2 times"),
        ("determiner-noun: the/3 > dogs", "there is no 'the/3'"),
        ("determiner-noun: the/0 > dogs", "there is no 'the/0'"),
        ("determiner-noun: the/x > dogs", "there is no 'the/x'"),
        ("subject-verb: dogs > dogs", "a word stands in it twice"),
        ("subject-verb: dogs > bark ! dogs", "a word stands in it twice"),
        ("subject-verb: dogs > bark ! night", "the distractor 'night' stands behind both words"),
    ],
)
def test_a_pair_that_is_none_is_named_and_the_others_stay(given: str, what: str) -> None:
    row = Prompt("x", "Why do the dogs bark all the night?", row=7)
    row.extra["pairs"] = f"{given}; subject-verb: dogs > bark;"
    pairs, (problem,) = gold_pairs(row, "mine.csv")
    assert pairs == [Pair("subject-verb", 3, 4)]
    assert what in problem.what
    assert problem.where.startswith("mine.csv, row 7, id x")
    assert given in problem.where
    assert problem.remedy


def test_a_sentence_without_pairs_has_none() -> None:
    assert gold_pairs(Prompt("x", "Dogs bark."), "mine.csv") == ([], [])
