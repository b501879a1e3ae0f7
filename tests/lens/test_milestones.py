"""Milestones on tables worked out by hand: the layer, its depth, and a reason where there is none.

Token ids in these tables: the answer is 1, the category 2, the other category 3, the prompt is
made of 10, 11 and 12, and 99 stands for any other token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.lens.milestones import milestones_table
from lensbench.records.schema.lens import GUESSED, LENS, MILESTONE_TABLE, MILESTONES, PROMPTS

ANSWER, CATEGORY, OTHER_CATEGORY, STRANGE = 1, 2, 3, 99
PROMPT_IDS = [10, 11, 12]
Ranks = Sequence[int | None]


def prompt_row(item: str = "p", **changes: Any) -> dict[str, Any]:
    return {
        "prompt_id": item,
        "relation": "capital",
        "answer_id": ANSWER,
        "category_id": CATEGORY,
        "null_category_id": OTHER_CATEGORY,
        "token_ids": PROMPT_IDS,
    } | changes


def lens_rows(
    answer: Ranks | None = None,
    *,
    category: Ranks | None = None,
    other: Ranks | None = None,
    kl: Sequence[float] | None = None,
    top: Sequence[int] | None = None,
    item: str = "p",
    lens: str = "final",
    n_layers: int | None = None,
) -> list[dict[str, Any]]:
    """One prompt's last position: a value per layer, embedding first. Nothing said: never."""
    given_series = next((s for s in (answer, category, other, kl, top) if s is not None), ())
    n_rows = len(given_series) if n_layers is None else n_layers + 1

    def at(series: Sequence[Any] | None, layer: int, otherwise: Any) -> Any:
        return otherwise if series is None else series[layer]

    return [
        {
            "prompt_id": item,
            "lens": lens,
            "site": "resid_post" if layer else "embed",
            "layer": layer,
            "is_last": True,
            "answer_rank": at(answer, layer, 300),
            "category_rank": at(category, layer, 300),
            "null_category_rank": at(other, layer, 300),
            "kl_bits": at(kl, layer, 9.0),
            "top_ids": [at(top, layer, STRANGE), STRANGE],
        }
        for layer in range(n_rows)
    ]


def milestones(
    rows: list[dict[str, Any]], prompts: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    n_layers = max(row["layer"] for row in rows)
    table = milestones_table(
        "m",
        n_layers,
        pa.Table.from_pylist(rows, schema=LENS.schema),
        pa.Table.from_pylist(list(prompts or [prompt_row()]), schema=PROMPTS.schema),
    )
    assert table.schema.equals(MILESTONE_TABLE.schema)
    return table.to_pylist()


def milestone(name: str, prompt: dict[str, Any] | None = None, **series: Any) -> Any:
    """The layer of one milestone, or its reason; the depth must agree with it."""
    (row,) = milestones(lens_rows(**series), [prompt or prompt_row()])
    layer, depth, reason = (row[f"{name}_{part}"] for part in ("layer", "depth", "reason"))
    if layer is None:
        assert depth is None
        assert reason
        return reason
    assert reason is None
    assert depth == layer / row["n_layers"]
    return layer


HAND_WORKED = [
    # The answer: first at rank 1, there to stay, first in the top 10.
    ("rank1_first", {"answer": [200, 50, 1, 3, 1]}, 2),
    ("rank1_stable", {"answer": [200, 50, 1, 3, 1]}, 4),
    ("top10_first", {"answer": [200, 11, 10, 3, 1]}, 2),
    ("rank1_first", {"answer": [9, 5, 4, 3, 2]}, "the answer is never at rank 1"),
    ("rank1_first", {"answer": [9, 5, 1, 3, 2]}, 2),
    (
        "rank1_stable",
        {"answer": [9, 5, 1, 3, 2]},
        "the answer is not at rank 1 after the last layer",
    ),
    ("rank1_stable", {"answer": [9, 1, 1, 1, 1]}, 1),
    ("top10_first", {"answer": [200, 50, 11, 11, 11]}, "the answer is never in the top 10"),
    # Layer 0, the embedding, counts.
    ("rank1_first", {"answer": [1, 9, 9, 9, 9]}, 0),
    ("rank1_stable", {"answer": [1, 1, 1, 1, 1]}, 0),
    ("top10_first", {"answer": [10, 90, 90, 90, 90]}, 0),
    # Close to the model's output: at most 1 bit, the first time.
    ("kl_1bit", {"kl": [8.0, 1.001, 1.0, 2.0, 0.0]}, 2),
    ("kl_1bit", {"kl": [0.5, 8.0, 8.0, 8.0, 0.0]}, 0),
    ("kl_1bit", {"kl": [8.0, 8.0, 8.0, 8.0, 1.5]}, "never within 1 bit of the model's output"),
    # A copy: the top token is one of the prompt's.
    ("copy_first", {"top": [STRANGE, 11, STRANGE, 10, ANSWER]}, 1),
    ("copy_first", {"top": [12, STRANGE, STRANGE, STRANGE, STRANGE]}, 0),
    ("copy_first", {"top": [STRANGE] * 5}, "the top token is never one of the prompt"),
    # The category against the answer, and by itself.
    ("category_over_answer", {"answer": [90, 40, 30, 5, 1], "category": [95, 40, 20, 9, 8]}, 2),
    ("category_over_answer", {"answer": [90, 9, 9, 9, 9], "category": [80, 10, 10, 10, 10]}, 0),
    (
        "category_over_answer",
        {"answer": [90, 40, 30, 5, 1], "category": [90, 41, 31, 6, 2]},
        "the category never outranks the answer",
    ),
    ("category_top10", {"category": [300, 11, 10, 11, 12]}, 2),
    ("category_top10", {"category": [300] * 5}, "the category is never in the top 10"),
    ("null_category_top10", {"other": [300, 11, 12, 4, 5]}, 3),
    ("null_category_top10", {"other": [300] * 5}, "the other category is never in the top 10"),
]


@pytest.mark.parametrize(("name", "series", "expected"), HAND_WORKED)
def test_a_hand_worked_table_gives(name: str, series: dict[str, Any], expected: Any) -> None:
    assert milestone(name, **series) == expected


def test_every_milestone_of_the_schema_is_worked_out_by_hand() -> None:
    assert {name for name, _, _ in HAND_WORKED} == set(MILESTONES)
    assert {name for name, _, expected in HAND_WORKED if isinstance(expected, str)} == set(
        MILESTONES
    )


ANSWER_MILESTONES = ["rank1_first", "rank1_stable", "top10_first", "category_over_answer"]


@pytest.mark.parametrize("name", ANSWER_MILESTONES)
def test_without_an_answer_the_reason_says_so(name: str) -> None:
    prompt = prompt_row(answer_id=None)
    found = milestone(name, prompt, answer=[None] * 5, category=[1] * 5)
    assert found == "the prompt has no answer"


def test_without_an_answer_top1_is_neither_correct_nor_wrong() -> None:
    (row,) = milestones(lens_rows([None] * 5), [prompt_row(answer_id=None)])
    assert row["top1_correct"] is None
    assert (row["kl_1bit_layer"], row["copy_first_layer"]) == (None, None)


@pytest.mark.parametrize("name", ["category_over_answer", "category_top10"])
def test_without_a_category_the_reason_says_so(name: str) -> None:
    prompt = prompt_row(category_id=None)
    found = milestone(name, prompt, answer=[9] * 5, category=[None] * 5)
    assert found == "the relation has no category word"


def test_without_another_category_the_reason_says_so() -> None:
    found = milestone("null_category_top10", prompt_row(null_category_id=None), other=[None] * 5)
    assert "category" in found


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("category_over_answer", "category_id"),
        ("category_top10", "category_id"),
        ("null_category_top10", "null_category_id"),
    ],
)
def test_a_category_that_stands_in_the_prompt_says_nothing(name: str, column: str) -> None:
    prompt = prompt_row(**{column: PROMPT_IDS[1]})
    found = milestone(name, prompt, answer=[9] * 5, category=[1] * 5, other=[1] * 5)
    assert found == "the category word stands in the prompt"


@pytest.mark.parametrize(("last", "correct"), [(1, True), (2, False)])
def test_top1_correct_is_of_the_models_output_under_every_lens(last: int, correct: bool) -> None:
    rows = lens_rows([1, 1, last]) + lens_rows([9, 9, 3 - last], lens="raw")
    assert [(row["lens"], row["top1_correct"]) for row in milestones(rows)] == [
        ("final", correct),
        ("raw", correct),
    ]


def test_top1_correct_is_unknown_without_the_final_lens() -> None:
    (row,) = milestones(lens_rows([9, 1, 1], lens="raw"))
    assert row["top1_correct"] is None
    assert row["rank1_first_layer"] == 1


def test_only_the_last_position_and_whole_blocks_count() -> None:
    rows = lens_rows([9, 9, 1])
    earlier = [row | {"is_last": False, "answer_rank": 1, "kl_bits": 0.0} for row in rows]
    halfway = [row | {"site": "resid_mid", "answer_rank": 1} for row in rows[1:]]
    (row,) = milestones(earlier + halfway + rows)
    assert (row["rank1_first_layer"], row["rank1_stable_layer"]) == (2, 2)
    assert row["kl_1bit_layer"] is None


def test_rows_may_come_in_any_order_and_go_out_in_that_of_prompts_and_lenses() -> None:
    rows = [
        row
        for lens in ("raw", "final", "next")
        for item in ("b", "a")
        for row in lens_rows([9, 1, 1], item=item, lens=lens)
    ]
    found = milestones(rows[::-1], [prompt_row("a"), prompt_row("b", relation="opposite")])
    assert [(row["prompt_id"], row["lens"]) for row in found] == [
        (item, lens) for item in "ab" for lens in ("final", "next", "raw")
    ]
    assert [row["relation"] for row in found] == ["capital"] * 3 + ["opposite"] * 3
    assert {row["rank1_first_layer"] for row in found} == {1}


ranks = st.lists(st.integers(1, 15), min_size=2, max_size=9)


@given(ranks)
def test_stable_rank_1_is_no_earlier_than_the_first_and_that_no_earlier_than_top_10(
    answer: list[int],
) -> None:
    (row,) = milestones(lens_rows(answer))
    first, stays, top10 = (
        row[f"{name}_layer"] for name in ("rank1_first", "rank1_stable", "top10_first")
    )
    assert (stays is not None) == (answer[-1] == 1) == row["top1_correct"]
    if stays is not None:
        assert first <= stays
        assert set(answer[stays:]) == {1}
        assert stays == 0 or answer[stays - 1] != 1
    if first is not None:
        assert top10 <= first
        assert answer.index(1) == first


@given(ranks, st.data())
def test_a_milestone_is_a_layer_with_its_depth_or_a_reason(
    answer: list[int], data: st.DataObject
) -> None:
    n = len(answer)
    series = {
        "category": data.draw(st.lists(st.integers(1, 15), min_size=n, max_size=n)),
        "other": data.draw(st.lists(st.integers(1, 15), min_size=n, max_size=n)),
        "kl": data.draw(st.lists(st.floats(0, 3), min_size=n, max_size=n)),
        "top": data.draw(st.lists(st.sampled_from([ANSWER, 10, STRANGE]), min_size=n, max_size=n)),
    }
    (row,) = milestones(lens_rows(answer, **series))
    for name in MILESTONES:
        layer, depth, reason = (row[f"{name}_{part}"] for part in ("layer", "depth", "reason"))
        assert (layer is None) == (depth is None) == (reason is not None)
        if layer is not None:
            assert 0 <= layer <= row["n_layers"]
            assert depth == layer / row["n_layers"]


def test_an_answer_that_ties_with_another_token_is_not_the_best_yet() -> None:
    """It shares rank 1 at layers 1 and 3, and the tenth place at layer 0."""
    rows = lens_rows(answer=[10, 1, 1, 1])
    for row, ties in zip(rows, (1, 1, 0, 2), strict=True):
        row["answer_ties"] = ties
    (found,) = milestones(rows)
    assert (found["top10_first_layer"], found["rank1_first_layer"]) == (1, 2)
    assert found["rank1_stable_reason"] == "the answer is not at rank 1 after the last layer"
    assert found["top1_correct"] is False


@pytest.mark.parametrize(
    ("guess", "gone"),
    [
        (None, ()),
        (11, ()),
        (10, ("top10_first",)),
        (2, ("top10_first",)),
        (1, ("rank1_first", "rank1_stable", "top10_first")),
    ],
)
def test_what_a_control_reads_at_that_rank_counts_at_no_layer(
    guess: int | None, gone: tuple[str, ...]
) -> None:
    layers = {"rank1_first": 2, "rank1_stable": 4, "top10_first": 1}
    rows = [
        row | {"answer_guess_rank": guess}
        for row in lens_rows(answer=[20, 9, 1, 3, 1], lens="linear")
    ]
    (row,) = milestones(rows)
    for name, layer in layers.items():
        own = [row[f"{name}_{part}"] for part in ("layer", "depth", "reason", "guessed_layer")]
        away = name in gone
        assert own == ([None, None, GUESSED, layer] if away else [layer, layer / 4, None, None])
    assert row["kl_1bit_reason"] != GUESSED
