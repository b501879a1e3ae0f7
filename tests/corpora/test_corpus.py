"""What a corpus holds: which texts, in which order, and which are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench import InputProblems, Prompt
from lensbench.corpora.corpus import load_corpus
from lensbench.corpora.facts import states

BERLIN = Prompt("de", "The capital of Germany is", answer="Berlin", subject="Germany")


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Berlin is the capital of Germany.", True),
        ("GERMANY'S largest city is berlin!", True),
        ("Germany is large. Its capital is Berlin.", False),  # two sentences
        ("Germany and Berliner Weisse", False),  # another word
        ("The treaty of Germany", False),
        ("Berlin lies in\nGermany", True),  # a line's end ends no sentence
        ("Berlin\n\nGermany", False),
    ],
)
def test_a_fact_is_subject_and_answer_in_one_sentence(text: str, told: bool) -> None:
    assert states(text, [BERLIN]) is told


def test_prompts_without_subject_or_answer_state_nothing() -> None:
    bare = [Prompt("a", "x", answer="Berlin"), Prompt("b", "x", subject="Germany")]
    assert not states("Berlin is the capital of Germany.", bare)


def test_documents_with_facts_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path, a="Berlin is in Germany.", b="Rivers flow.", c="Hills stand.")
    corpus = load_corpus(str(folder), [BERLIN])
    assert sorted(d.text for d in corpus.documents) == ["Hills stand.", "Rivers flow."]
    assert corpus.n_with_facts == 1


def test_controls_do_not_count_as_facts(tmp_path: Path) -> None:
    wrong = Prompt("c", "x", answer="Berlin", subject="Germany", control_of="de")
    assert load_corpus(str(write(tmp_path, a="Berlin is in Germany.")), [wrong]).n_with_facts == 0


def test_the_order_follows_from_the_texts_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    write(one, a="First text.", b="Second text.", c="Third text.")
    write(two, x="Third text.", y="First text.", z="Second text.", twice="First text.")
    a, b = load_corpus(str(one)), load_corpus(str(two))
    assert [d.text for d in a.documents] == [d.text for d in b.documents]
    assert a.sha256 == b.sha256
    assert a.sha256 != load_corpus(str(write(one, d="Fourth text."))).sha256


def test_a_long_text_is_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}: " + "word " * 200 for i in range(20)]
    corpus = load_corpus(str(write(tmp_path, long="\n\n".join(paragraphs))))
    assert len(corpus.documents) > 1
    held = [p for d in corpus.documents for p in d.text.split("\n\n")]
    assert sorted(held) == sorted(paragraphs)


def test_what_is_no_text_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path, good="Rivers flow.")
    (tmp_path / "bad.md").write_bytes(b"abc\xff\xfe")
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.documents) == 1
    (problem,) = corpus.problems
    assert "bad.md" in str(problem) and "byte 3" in str(problem) and "UTF-8" in str(problem)


@pytest.mark.parametrize("given", ["no-such", "empty", "facts"])
def test_a_corpus_of_nothing_is_refused(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", nothing="  \n ")
    (tmp_path / "facts").mkdir()
    write(tmp_path / "facts", a="Berlin is in Germany.")
    with pytest.raises(InputProblems, match="corpus"):
        load_corpus(str(tmp_path / given), [BERLIN])


@pytest.mark.slow
def test_the_shipped_corpus_is_large_enough_and_the_same_each_time() -> None:
    corpus = load_corpus("python-docs")
    assert sum(len(d.text) for d in corpus.documents) > 1_000_000
    assert corpus.sha256 == load_corpus("python-docs").sha256
