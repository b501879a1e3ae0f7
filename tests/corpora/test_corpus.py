"""What a corpus holds: which texts, in which order, and which are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench import InputProblems, Prompt
from lensbench.corpora.corpus import load_corpus
from lensbench.corpora.facts import stated
from lensbench.prompts.sets import load_prompts, shipped

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
        ("de,capital,The capital of Germany is,Berlin", True),  # the prompt set itself
        ("The capital of Germany is", False),
    ],
)
def test_a_fact_is_subject_and_answer_in_one_sentence(text: str, told: bool) -> None:
    assert bool(stated(text, [BERLIN])) is told


@pytest.mark.parametrize(
    ("subject", "answer", "text", "told"),
    [
        ("德国", "柏林", "柏林是德国的首都。", True),
        ("德国", "柏林", "柏林很大。德国也很大。", False),  # ended by a mark without a space
        ("독일", "베를린", "베를린은 독일의 수도이다.", True),  # with its particles
        ("Германия", "Берлин", "БЕРЛИН и ГЕРМАНИЯ.", True),
        ("Κύπρος", "Λευκωσία", "ΛΕΥΚΩΣΊΑ, ΚΎΠΡΟΣ", True),  # a final sigma is a sigma
        ("Straße", "Weg", "STRASSE UND WEG", True),
        ("São Paulo", "Brazil", "Brazil has Sa\u0303o Paulo", True),  # written in two characters
        ("Gulliver's Travels", "Swift", "Swift wrote Gulliver’s  Travels", True),
        (
            "The Great Gatsby",
            "F. Scott Fitzgerald",
            "It's The Great Gatsby by F. Scott Fitzgerald.",
            True,
        ),
        ("Russia", "St. Petersburg", "In Russia lies St. Petersburg.", True),
        ("USA", "Washington", "In the U.S. Washington is known. The USA is large.", False),
        ("C++", "Stroustrup", "Stroustrup made C++.", True),  # no pattern of a search
    ],
)
def test_facts_are_found_however_they_are_written(
    subject: str, answer: str, text: str, told: bool
) -> None:
    fact = Prompt("x", "x", answer=answer, subject=subject)
    assert bool(stated(text, [fact])) is told


def test_prompts_without_subject_or_answer_state_nothing() -> None:
    bare = [
        Prompt("a", "x", answer="Berlin"),
        Prompt("b", "x", subject="Germany"),
        Prompt("c", "x", answer=" ", subject="Germany"),
        Prompt("d", "x", answer="Berlin", subject=""),
    ]
    assert not stated("Berlin is the capital of Germany.", bare)


@pytest.mark.parametrize("name", shipped())
def test_every_fact_of_a_shipped_set_is_found_where_it_is_planted(name: str) -> None:
    prompts = [one for one in load_prompts(name).prompts if one.subject and one.answer]
    for one in prompts:
        assert stated(f"Well. Known: {one.subject} and also {one.answer}! And so on.", [one])
        assert stated(f"{one.prompt} {one.answer}.", [one])
        assert not stated(f"{one.subject}! Next to it: {one.answer}.", [one])


def test_documents_with_facts_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path, a="Berlin is in Germany.", b="Rivers flow.", c="Hills stand.")
    write(folder, d="Germany, Berlin, France, Paris.")
    paris = Prompt("fr", "The capital of France is", answer="Paris", subject="France")
    rome = Prompt("it", "The capital of Italy is", answer="Rome", subject="Italy")
    corpus = load_corpus(str(folder), [BERLIN, paris, rome])
    assert sorted(d.text for d in corpus.documents) == ["Hills stand.", "Rivers flow."]
    assert (corpus.n_with_facts, corpus.n_facts) == (2, 2)


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


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "JSONL"])
def test_a_table_is_no_text(tmp_path: Path, suffix: str) -> None:
    """Its quotes, braces and numbers would be what a lens is fitted on."""
    (tmp_path / f"rows.{suffix}").write_text('{"text": "Rivers flow."}\n' * 9)
    with pytest.raises(InputProblems, match=f"rows.{suffix}: holds rows of cells"):
        load_corpus(str(tmp_path / f"rows.{suffix}"))


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
