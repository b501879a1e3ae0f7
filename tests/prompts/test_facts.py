"""The shipped prompt set `facts`: the CSV is what the builder makes, and its rows fit together."""

from __future__ import annotations

import csv
import io
import string
import unicodedata
from collections import Counter
from importlib import resources

import pytest

from lensbench.prompts import facts

Row = dict[str, str]
LINKS = {"control": "control_of", "paraphrase": "paraphrase_of", "reverse": "reverse_of"}


@pytest.fixture(scope="module")
def text() -> str:
    shipped = resources.files("lensbench").joinpath("prompts", "data", "facts.csv")
    return shipped.read_bytes().decode("utf-8")


@pytest.fixture(scope="module")
def rows(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(scope="module")
def base(rows: list[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows if row["template"] == "base"}


@pytest.fixture(scope="module")
def relations() -> dict[str, facts.Relation]:
    return {relation.name: relation for relation in facts.load_relations()}


def derived(rows: list[Row], template: str) -> list[Row]:
    return [row for row in rows if row["template"] == template]


def test_shipped_csv_is_what_the_builder_makes(text: str) -> None:
    assert text == facts.to_csv(facts.build_rows(facts.load_relations()))


def test_csv_survives_a_round_trip(text: str, rows: list[Row]) -> None:
    assert "\r" not in text
    assert text.endswith("\n")
    assert text.splitlines()[0] == ",".join(facts.COLUMNS)
    assert facts.to_csv(rows) == text


def test_ids_are_unique_slugs(rows: list[Row]) -> None:
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert set("".join(ids)) <= set(string.ascii_lowercase + string.digits + "-")


def test_enough_facts_in_enough_relations(base: dict[str, Row]) -> None:
    per_relation = Counter(row["relation"] for row in base.values())
    assert len(base) >= 240
    assert len(per_relation) >= 8
    assert min(per_relation.values()) >= 25


def test_text_is_clean(rows: list[Row]) -> None:
    for row in rows:
        assert row["prompt"] and row["answer"] and row["subject"] and row["relation"], row
        for column, cell in row.items():
            assert cell == " ".join(cell.split()), (row["id"], column)
            assert unicodedata.is_normalized("NFC", cell), (row["id"], column)
            assert "{" not in cell and "}" not in cell, (row["id"], column)


def test_prompt_names_its_subject_and_not_its_answer(rows: list[Row]) -> None:
    for row in rows:
        assert row["subject"] in row["prompt"], row["id"]
        words = row["prompt"].replace(",", " ").replace('"', " ").split()
        assert row["answer"] not in words, row["id"]


def test_each_question_has_one_answer(rows: list[Row]) -> None:
    answers: dict[str, set[str]] = {}
    for row in rows:
        if row["template"] != "control":
            answers.setdefault(row["prompt"], set()).add(row["answer"])
    assert {prompt: found for prompt, found in answers.items() if len(found) > 1} == {}
    assert len(answers) == sum(row["template"] != "control" for row in rows)


def test_category_is_one_word_per_relation_and_never_the_answer(rows: list[Row]) -> None:
    categories: dict[str, set[str]] = {}
    for row in rows:
        categories.setdefault(row["relation"], set()).add(row["category"])
        assert row["category"] == "" or row["category"].isalpha(), row["id"]
        assert row["category"] != row["answer"], row["id"]
    assert all(len(found) == 1 for found in categories.values())


def test_links_name_base_rows(rows: list[Row], base: dict[str, Row]) -> None:
    for row in rows:
        links = {column: row[column] for column in LINKS.values() if row[column]}
        expected = LINKS.get(row["template"])
        assert list(links) == ([expected] if expected else []), row["id"]
        assert set(links.values()) <= base.keys(), row["id"]


def test_every_base_row_has_one_paraphrase_and_one_control(
    rows: list[Row], base: dict[str, Row]
) -> None:
    for template in ("paraphrase", "control"):
        linked = Counter(row[LINKS[template]] for row in derived(rows, template))
        assert linked == dict.fromkeys(base, 1)


def test_paraphrase_asks_the_same_in_other_words(rows: list[Row], base: dict[str, Row]) -> None:
    for row in derived(rows, "paraphrase"):
        original = base[row["paraphrase_of"]]
        for column in ("relation", "subject", "answer", "category"):
            assert row[column] == original[column], row["id"]
        assert row["prompt"] != original["prompt"], row["id"]


def test_control_puts_another_subject_in_the_same_template(
    rows: list[Row], base: dict[str, Row], relations: dict[str, facts.Relation]
) -> None:
    for row in derived(rows, "control"):
        original = base[row["control_of"]]
        relation = relations[row["relation"]]
        for column in ("relation", "answer", "category"):
            assert row[column] == original[column], row["id"]
        assert row["subject"] != original["subject"], row["id"]
        assert row["prompt"] == relation.templates[0].format(subject=row["subject"]), row["id"]
        true_answer = dict(relation.pairs)[row["subject"]]
        assert true_answer[0].casefold() != row["answer"][0].casefold(), row["id"]


def test_reverse_swaps_subject_and_answer(
    rows: list[Row], base: dict[str, Row], relations: dict[str, facts.Relation]
) -> None:
    reverses = derived(rows, "reverse")
    for row in reverses:
        original = base[row["reverse_of"]]
        assert (row["subject"], row["answer"]) == (original["answer"], original["subject"])
        reverse = relations[original["relation"]].reverse
        assert reverse is not None
        assert row["relation"] == reverse.name
    assert len({row["relation"] for row in reverses}) >= 2
    assert {row["relation"] for row in reverses}.isdisjoint(relations)


def test_a_relation_with_a_reverse_is_one_to_one(relations: dict[str, facts.Relation]) -> None:
    for relation in relations.values():
        subjects = [subject for subject, _ in relation.pairs]
        answers = [answer for _, answer in relation.pairs]
        assert len(set(subjects)) == len(subjects), relation.name
        if relation.reverse:
            assert len(set(answers)) == len(answers), relation.name


def test_no_control_where_every_answer_has_the_same_initial() -> None:
    relation = facts.Relation("r", ("{subject} is", "{subject}:"), (("a", "Xa"), ("b", "xb")))
    with pytest.raises(ValueError, match="relation r"):
        facts.build_rows([relation])


def test_slug_is_ascii() -> None:
    assert facts.slug("Les Misérables") == "les-miserables"
    assert facts.slug("The Handmaid's Tale") == "the-handmaids-tale"
    assert facts.slug("us_state_capital") == "us-state-capital"
