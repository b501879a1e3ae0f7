"""Prompt sets: bad rows become problems that name file, row and remedy; good rows survive."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.prompts.prompt import Prompt, as_prompts, choose
from lensbench.prompts.sets import PromptSet, load_prompts, shipped

HEADER = "id,relation,prompt,answer"
GOOD = "good,capital,The capital of Germany is,Berlin"


def saved(folder: Path, content: str | bytes, name: str = "set.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_set(folder: Path, *lines: str, header: str = HEADER) -> PromptSet:
    return load_prompts(saved(folder, "\n".join([header, *lines]) + "\n"))


def jsonl_set(folder: Path, *rows: object) -> PromptSet:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return load_prompts(saved(folder, "\n".join(lines) + "\n", "set.jsonl"))


def row(item: str = "good", **cells: object) -> dict[str, object]:
    plain = {"relation": "capital", "prompt": "The capital of Germany is", "answer": "Berlin"}
    return {"id": item, **plain, **cells}


def only_problem(found: PromptSet) -> Problem:
    """The one problem of a set whose good row survived."""
    assert [prompt.id for prompt in found.prompts] == ["good"]
    (problem,) = found.problems
    assert problem.remedy
    return problem


def refusal(path: Path | str) -> str:
    """The message for a file that cannot be used at all; it names the file and a remedy."""
    with pytest.raises(InputProblems) as caught:
        load_prompts(path)
    assert Path(path).name in str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems)
    return str(caught.value)


# --- rows ---------------------------------------------------------------------------------------


BAD_ROWS = [
    (row("bad", prompt="  "), "the prompt is empty"),
    (row("bad", relation=""), "the relation is empty"),
    (row(" "), "the id is empty"),
    (row("bad", prompt="a\0b"), "NUL byte in 'prompt'"),
    (row("bad", answer="\0"), "NUL byte in 'answer'"),
    (row("bad", prompt="x" * 1_000_000), "'prompt' has 1,000,000 characters"),
    (row("bad", control_of="nobody"), "control_of = nobody is not the id of a base row"),
    (row("bad", paraphrase_of="nobody"), "paraphrase_of = nobody"),
    (row("bad", reverse_of="nobody"), "reverse_of = nobody"),
    (row("bad", control_of="bad"), "control_of = bad is not the id of a base row"),
    (row("good", prompt="Another question is"), "the id was used in row"),
]
IDS = [what for _, what in BAD_ROWS]


@pytest.mark.parametrize(("bad", "what"), BAD_ROWS, ids=IDS)
def test_a_bad_csv_row_is_named_and_the_good_one_survives(
    tmp_path: Path, bad: dict[str, str], what: str
) -> None:
    path = tmp_path / "set.csv"
    columns = [*HEADER.split(","), "control_of", "paraphrase_of", "reverse_of"]
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows([row(), bad])
    problem = only_problem(load_prompts(path))
    assert problem.where.startswith("set.csv, row 3")
    assert what in problem.what
    assert (problem.prompt_id or "") == bad["id"].strip()


@pytest.mark.parametrize(("bad", "what"), BAD_ROWS, ids=IDS)
def test_a_bad_jsonl_row_is_named_and_the_good_one_survives(
    tmp_path: Path, bad: dict[str, str], what: str
) -> None:
    problem = only_problem(jsonl_set(tmp_path, row(), bad))
    assert problem.where.startswith("set.jsonl, row 2")
    assert what in problem.what


def test_a_bad_row_keeps_its_id_in_the_message(tmp_path: Path) -> None:
    problem = only_problem(csv_set(tmp_path, GOOD, "paris,capital,,Paris"))
    assert str(problem) == (
        "set.csv, row 3, id paris: the prompt is empty. Write one or delete the row."
    )


def test_everything_wrong_with_a_row_is_said_at_once(tmp_path: Path) -> None:
    found = csv_set(tmp_path, GOOD, ",,,x")
    assert [problem.what for problem in found.problems] == [
        "the id is empty",
        "the prompt is empty",
        "the relation is empty",
    ]


def test_a_duplicate_id_names_the_row_that_had_it_first(tmp_path: Path) -> None:
    problem = only_problem(csv_set(tmp_path, GOOD, "good,capital,Another question is,Paris"))
    assert "used in row 2" in problem.what


def test_the_id_of_a_bad_row_is_free_again(tmp_path: Path) -> None:
    found = csv_set(tmp_path, "good,capital,,Berlin", GOOD)
    assert [prompt.row for prompt in found.prompts] == [3]
    assert [problem.where for problem in found.problems] == ["set.csv, row 2, id good"]


@pytest.mark.parametrize("line", ["a,capital,too few", "a,capital,London, is,London"])
def test_a_wrong_number_of_cells_says_both_numbers(tmp_path: Path, line: str) -> None:
    problem = only_problem(csv_set(tmp_path, line, GOOD))
    assert problem.where == "set.csv, row 2"
    assert f"it has {line.count(',') + 1} cells, the header 4" in problem.what
    assert "double quotes" in problem.remedy


def test_an_unclosed_quote_keeps_the_rows_before_it(tmp_path: Path) -> None:
    problem = only_problem(csv_set(tmp_path, GOOD, 'b,capital,"The capital,Paris', "c,d,e,f"))
    assert problem.where == "set.csv, row 3"
    assert "not CSV from here on" in problem.what
    assert "quotes" in problem.remedy


def test_an_unclosed_quote_in_the_header_is_an_error(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, f'"{HEADER}\n{GOOD}\n'))
    assert "row 1" in message
    assert "quotes" in message


def test_a_link_to_a_bad_row_is_a_problem_too(tmp_path: Path) -> None:
    header = f"{HEADER},control_of"
    found = csv_set(tmp_path, f"{GOOD},", "bad,capital,,Paris,", "c,capital,x,y,bad", header=header)
    assert [problem.prompt_id for problem in found.problems] == ["bad", "c"]
    assert [prompt.id for prompt in found.prompts] == ["good"]


def test_a_link_may_lead_to_a_later_row(tmp_path: Path) -> None:
    found = csv_set(tmp_path, "c,capital,x,y,good", f"{GOOD},", header=f"{HEADER},control_of")
    assert found.problems == []
    assert [prompt.is_base for prompt in found.prompts] == [False, True]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{not json", "it is not JSON"),
        ('["a", "list"]', "it is no JSON object"),
        ("7", "it is no JSON object"),
        ('{"id": "b", "answer": "x"}', "the key(s) prompt are missing"),
        ('{"id": "b", "prompt": "x", "answer": ["y", "z"]}', "'answer' is a list, not a text"),
        ('{"id": "b", "prompt": "x", "answer": {"y": 1}}', "'answer' is an object, not a text"),
        ('{"id": "b", "prompt": "x", "answer": true}', "'answer' is true or false, not a text"),
        ('{"id": "b", "prompt": "x", "answer": Infinity}', "Infinity is no value"),
        ('{"id": "b", "prompt": "x", "prompt": "y"}', "the key 'prompt' stands twice"),
        ('{"id": "b", "prompt": "x", "Answer ": "y"}', "the column(s) 'Answer ' would not be read"),
        ("[" * 100_000, "it is not JSON"),
    ],
    ids=[
        "broken",
        "list",
        "number",
        "keys",
        "answers",
        "object",
        "bool",
        "infinity",
        "twin",
        "capital",
        "deep",
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, what: str) -> None:
    problem = only_problem(jsonl_set(tmp_path, line, row()))
    assert problem.where == "set.jsonl, row 1"
    assert what in problem.what


def test_half_a_surrogate_pair_in_jsonl_is_a_problem_of_its_row(tmp_path: Path) -> None:
    bad = r'{"id": "b", "relation": "r", "prompt": "x \ud83d", "answer": "y"}'
    problem = only_problem(jsonl_set(tmp_path, row(), bad))
    assert problem.where == "set.jsonl, row 2, id b"
    assert "prompt" in problem.what


def test_json_null_is_an_empty_cell(tmp_path: Path) -> None:
    (prompt,) = jsonl_set(tmp_path, row(answer=None, category=None)).prompts
    assert (prompt.answer, prompt.category) == (None, None)


# --- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_cell(tmp_path: Path, name: str) -> None:
    text = f"{HEADER}\n{GOOD}\n" if name.endswith("csv") else json.dumps(row()) + "\n"
    found = load_prompts(saved(tmp_path, b"\xef\xbb\xbf" + text.encode(), name))
    assert [prompt.id for prompt in found.prompts] == ["good"]
    assert found.problems == []


def test_line_ends_in_cells_are_kept_and_rows_are_numbered_by_line(tmp_path: Path) -> None:
    found = csv_set(tmp_path, 'poem,verse,"Roses are red,\nviolets are",blue', "", GOOD, "x,r,,y")
    assert [(prompt.id, prompt.row) for prompt in found.prompts] == [("poem", 2), ("good", 5)]
    assert found.prompts[0].prompt == "Roses are red,\nviolets are"
    assert found.problems[0].where == "set.csv, row 6, id x"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_windows_line_ends_change_nothing(tmp_path: Path, line_end: str) -> None:
    path = saved(tmp_path, line_end.join([HEADER, GOOD, ""]))
    assert load_prompts(path).prompts == [Prompt("good", *_fields(GOOD), row=2)]


def _fields(line: str) -> tuple[str, str, str]:
    _, relation, prompt, answer = line.split(",")
    return prompt, relation, answer


def test_more_columns_are_kept(tmp_path: Path) -> None:
    found = csv_set(tmp_path, f"{GOOD},base,", header=f"{HEADER},template,note")
    assert found.prompts[0].extra == {"template": "base", "note": ""}


def test_more_keys_are_kept(tmp_path: Path) -> None:
    assert jsonl_set(tmp_path, row(difficulty=3)).prompts[0].extra == {"difficulty": "3"}


def test_columns_may_come_in_any_order_with_spaces(tmp_path: Path) -> None:
    found = csv_set(tmp_path, "Berlin,good,Germany:,capital", header="answer, id ,prompt,relation")
    assert found.prompts == [Prompt("good", "Germany:", "capital", "Berlin", row=2)]


def test_a_cell_of_one_megabyte_in_a_spare_column_is_refused_with_its_name(tmp_path: Path) -> None:
    bad = f"b,capital,x,y,{'n' * 1_000_000}"
    found = csv_set(tmp_path, f"{GOOD},", bad, header=f"{HEADER},note")
    assert "'note' has 1,000,000 characters" in only_problem(found).what


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, f"{HEADER}\n{GOOD}\n")
    assert load_prompts(path).sha256 == sha256_of(path)


def test_a_set_that_was_changed_is_not_the_file(tmp_path: Path) -> None:
    """A record of one goes on with the other otherwise, or stands for it."""
    rows = [GOOD, "b,river,The Rhine flows into the,North", "c,capital,Italy is ruled from,Rome"]
    path = saved(tmp_path, "\n".join([HEADER, *rows]) + "\n")
    whole = load_prompts(path)
    assert whole.identity == load_prompts(whole).identity == sha256_of(path)
    assert load_prompts(path, ["river"]).identity == sha256_of(path)  # the relation is a setting
    first, *others = whole.prompts
    made = [
        whole.only("river"),
        whole.only("capital"),
        load_prompts(whole, ["capital"]).only("capital"),
        replace(whole, prompts=whole.prompts[:1]),
        replace(whole, prompts=whole.prompts[::-1]),
        replace(whole, prompts=[replace(first, answer="Rome"), *others]),
        PromptSet("mine", "", [first], []),
        PromptSet("mine", "", [replace(first, token_ids=(1, 2))], []),
    ]
    found = [one.identity for one in made]
    assert sha256_of(path) not in found
    assert found[1] == found[2]
    assert found[3] == found[6]  # the same prompts, whoever put them together
    assert len({*found}) == len(found) - 2


# --- files that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
def test_latin_1_is_refused_with_the_line(tmp_path: Path, name: str) -> None:
    lines = [HEADER, GOOD, "b,capital,Die Hauptstadt von Österreich ist,Wien"]
    message = refusal(saved(tmp_path, "\n".join(lines).encode("latin-1"), name))
    assert "line 3 is not UTF-8 (byte 0xd6)" in message
    assert "UTF-8" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
def test_utf_16_is_refused_as_such(tmp_path: Path, encoding: str, name: str) -> None:
    text = f"{HEADER}\n{GOOD}\n" if name.endswith("csv") else json.dumps(row()) + "\n"
    message = refusal(saved(tmp_path, text.encode(encoding), name))
    assert "UTF-8" in message
    assert "\0" not in message


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, "id,relation,answer\na,b,c\n"))
    assert "the column(s) prompt are missing; it has id, relation, answer" in message
    assert "The header needs prompt; optional: id, relation, answer" in message


def test_only_the_prompt_is_needed(tmp_path: Path) -> None:
    """What Python makes of a list of texts: p1, p2, ..., one relation, no answer."""
    given = ["Rome is", "Berlin, too, is"]
    text = 'prompt\nRome is\n"Berlin, too, is"\n'
    for found in (
        load_prompts(saved(tmp_path, text)),
        jsonl_set(tmp_path, *(json.dumps({"prompt": prompt}) for prompt in given)),
    ):
        assert found.problems == []
        bare = [replace(prompt, row=None) for prompt in found.prompts]
        assert bare == as_prompts(given)


def test_a_number_is_an_answer_as_it_is_written_and_nan_is_none(tmp_path: Path) -> None:
    answers = ["4", "1.50", "1e3", "NaN", "null", '"NaN"']
    lines = (f'{{"prompt": "x", "answer": {answer}}}' for answer in answers)
    found = jsonl_set(tmp_path, *lines)
    assert found.problems == []
    assert [prompt.answer for prompt in found.prompts] == ["4", "1.50", "1e3", None, None, "NaN"]


@pytest.mark.parametrize(
    "second",
    ['{"id": 7, "prompt": "x"}', '{"id": "7 ", "prompt": "x"}', '{"id": " 7", "prompt": "x"}'],
)
def test_ids_that_people_cannot_tell_apart_are_one(tmp_path: Path, second: str) -> None:
    found = jsonl_set(tmp_path, '{"id": "7", "prompt": "x"}', second)
    assert [prompt.id for prompt in found.prompts] == ["7"]
    assert [problem.what for problem in found.problems] == ["the id was used in row 1 before"]


def test_a_link_finds_its_row_whatever_its_type_and_spaces(tmp_path: Path) -> None:
    found = jsonl_set(
        tmp_path, '{"id": 7, "prompt": "x"}', '{"id": 8, "prompt": "y", "control_of": " 7 "}'
    )
    assert found.problems == []
    assert found.prompts[1].control_of == "7"


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("id,prompt,answer,answer", "the column(s) answer stand twice"),
        ("id,prompt,Prompt ,prompt ", "the column(s) prompt stand twice"),
        ("id,prompt,Answer", "the column(s) 'Answer' would not be read"),
        ("ID,Prompt,answer", "the column(s) 'ID', 'Prompt' would not be read"),
        ("id;prompt;answer", "its columns are separated by semicolons"),
        ("id\tprompt\tanswer", "its columns are separated by tabs"),
    ],
)
def test_a_header_that_would_mislead_is_refused(tmp_path: Path, header: str, what: str) -> None:
    assert what in refusal(saved(tmp_path, f"{header}\na,b,c,d\n"))


def test_empty_columns_of_a_spreadsheet_are_passed_over_and_full_ones_are_not(
    tmp_path: Path,
) -> None:
    found = load_prompts(saved(tmp_path, "prompt,,\nRome is,,\nBerlin is,lost,\n"))
    assert [prompt.prompt for prompt in found.prompts] == ["Rome is"]
    assert [problem.what for problem in found.problems] == ["'lost' stands under no column's name"]


def test_a_character_that_was_lost_before_is_named(tmp_path: Path) -> None:
    found = load_prompts(saved(tmp_path, "prompt,answer\nRome is,caf\ufffd\nBerlin is,x\n"))
    assert [prompt.answer for prompt in found.prompts] == ["x"]
    assert "a character of the answer is lost" in found.problems[0].what


@pytest.mark.parametrize("name", ["empty.csv", "empty.jsonl"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    refusal(saved(tmp_path, content, name))


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    assert "no usable row" in refusal(saved(tmp_path, HEADER + "\n"))


def test_a_file_of_bad_rows_says_what_is_wrong_with_each(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, f"{HEADER}\na,capital,,x\nb,,Hello,y\n"))
    assert "row 2, id a: the prompt is empty" in message
    assert "row 3, id b: the relation is empty" in message


def test_a_missing_file_names_the_shipped_sets(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere.csv")
    assert "no such file" in message
    assert "facts" in message


def test_a_folder_is_no_prompt_set(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path, f"{HEADER}\n{GOOD}\n", "set.xlsx"))
    assert "'.xlsx'" in message
    assert "Save it as .csv, .jsonl or .json." in message


def test_an_array_of_objects_is_a_prompt_set(tmp_path: Path) -> None:
    rows = [{"prompt": "The opposite of hot is", "answer": "cold"}, {"prompt": "Bonjour"}]
    prompts = load_prompts(saved(tmp_path, json.dumps(rows, indent=1), "set.json")).prompts
    assert [(p.prompt, p.answer) for p in prompts] == [tuple(rows[0].values()), ("Bonjour", None)]


def test_an_unknown_relation_names_the_known_ones(tmp_path: Path) -> None:
    found = csv_set(tmp_path, GOOD, "b,opposite,The opposite of hot is,cold")
    with pytest.raises(InputProblems, match=r"no relation 'colour'.*It has: capital, opposite\."):
        found.only(["capital", "colour"])
    assert [prompt.id for prompt in found.only(["opposite"]).prompts] == ["b"]


# --- shipped sets, round trips, choosing --------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_set_has_no_problem(name: str) -> None:
    found = load_prompts(name)
    assert found.problems == []
    assert found.name == name


words = st.text(
    st.characters(exclude_characters="\0\ufffd", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(str.strip)
ids = st.lists(words.map(str.strip), min_size=1, max_size=6, unique=True)


@given(ids=ids, data=st.data())
def test_what_the_csv_module_writes_is_what_is_read(
    ids: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [[item, data.draw(words).strip(), *(data.draw(words) for _ in range(2))] for item in ids]
    path = tmp_path_factory.mktemp("round") / "set.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([HEADER.split(","), *rows])
    found = load_prompts(path)
    assert found.problems == []
    assert [[p.id, p.relation, p.prompt, p.answer] for p in found.prompts] == rows


@given(ids=ids, data=st.data())
def test_what_the_json_module_writes_is_what_is_read(
    ids: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [row(item, prompt=data.draw(words), answer=data.draw(words)) for item in ids]
    found = jsonl_set(tmp_path_factory.mktemp("round"), *rows)
    assert found.problems == []
    assert [(p.id, p.prompt, p.answer) for p in found.prompts] == [
        (r["id"], r["prompt"], r["answer"]) for r in rows
    ]


def prompt_set(sizes: list[int]) -> list[Prompt]:
    """Base prompts in relations of these sizes, each with a control."""
    base = [
        Prompt(f"{relation}-{i}", "x", f"relation {relation}")
        for relation, size in enumerate(sizes)
        for i in range(size)
    ]
    return [p for b in base for p in (b, Prompt(f"{b.id}-c", "y", b.relation, control_of=b.id))]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 30))
def test_a_limit_spreads_over_relations_and_a_larger_one_only_adds(
    sizes: list[int], limit: int
) -> None:
    prompts = prompt_set(sizes)
    chosen, larger = choose(prompts, limit), choose(prompts, limit + 1)
    base = [prompt for prompt in chosen if prompt.is_base]
    assert len(base) == min(limit, sum(sizes))
    assert {p.id for p in chosen} == {
        p.id for b in base for p in prompts if b.id in (p.id, p.control_of)
    }
    assert {p.id for p in chosen} <= {p.id for p in larger}
    counts = [sum(p.relation == f"relation {r}" for p in base) for r in range(len(sizes))]
    unfinished = [count for count, size in zip(counts, sizes, strict=True) if count < size]
    assert all(max(counts) - count <= 1 for count in unfinished)


def test_no_limit_takes_all() -> None:
    prompts = prompt_set([2, 3])
    assert choose(prompts, None) == prompts
