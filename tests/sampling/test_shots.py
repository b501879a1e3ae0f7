"""Tasks: what is asked, what counts as an answer, and that controls differ in one thing."""

from __future__ import annotations

from collections import Counter

import pytest

from lensbench.sampling.shots.tasks import (
    Asked,
    Item,
    Task,
    answered,
    asked,
    examples,
    exchanged,
    shipped_tasks,
)

TASKS = {task.name: task for task in shipped_tasks()}


def test_shipped_tasks_are_sound() -> None:
    for task in TASKS.values():
        given = [item.given for item in task.items]
        assert len(given) == len(set(given)) == 20
        assert all(item.answer for item in task.items)
        if task.labels:
            counts = Counter(item.answer for item in task.items)
            assert set(counts) == set(task.labels)
            assert len(set(counts.values())) == 1, "each label as often: chance is one in so many"


def test_what_is_asked_is_what_its_condition_says() -> None:
    task = TASKS["opposite"]
    item = task.items[0]
    texts = {
        name: asked(task, item, name, 4, 0)
        for name in (
            *("input", "instruction", "examples", "shuffled", "instruction+examples"),
            "chat+instruction",
        )
    }
    assert texts["input"].text == "Input: hot\nOutput:"
    assert texts["instruction"].text == f"{task.instruction}\n\nInput: hot\nOutput:"
    assert texts["chat+instruction"].text == texts["instruction"].text
    assert texts["chat+instruction"].chat
    assert not texts["instruction"].chat
    few, mixed = (texts[name].text for name in ("examples", "shuffled"))
    assert few.count("Input:") == 5
    assert few.endswith("Input: hot\nOutput:")
    assert "Input: hot\nOutput: cold" not in few
    assert texts["instruction+examples"].text == f"{task.instruction}\n\n{few}"
    # The control has the same inputs in the same order, and the same answers in another one.
    lines = [text.splitlines() for text in (few, mixed)]
    assert [line for line in lines[0] if "Input" in line] == [
        line for line in lines[1] if "Input" in line
    ]
    assert sorted(lines[0]) == sorted(lines[1])
    pairs = [set(zip(one[::3], one[1::3], strict=True)) for one in lines]
    assert len(pairs[0] & pairs[1]) == 1  # the question itself


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_others_and_labels_are_alike_often(name: str) -> None:
    task = TASKS[name]
    drawn = {item.given: examples(task, item, 4, 0) for item in task.items}
    for item in task.items:
        own = drawn[item.given]
        assert item not in own
        assert len(set(own)) == 4
        if task.labels:
            assert set(Counter(one.answer for one in own).values()) == {4 // len(task.labels)}
        answers = [one.answer for one in own]
        assert all(a != b for a, b in zip(answers, exchanged(answers), strict=True))
    assert len({tuple(own) for own in drawn.values()}) > 10, "drawn for each item anew"
    assert examples(task, task.items[0], 4, 0) == drawn[task.items[0].given]
    assert examples(task, task.items[0], 4, 1) != drawn[task.items[0].given]


TASK = Task("t", "Say it.", (), ("positive", "negative"))


@pytest.mark.parametrize(
    ("said", "right", "named"),
    [
        (" Positive.\n\nInput: more", True, True),
        ("\n positive", True, True),
        ("It is positive", False, True),
        ("positive or negative", False, False),
        ("negative", False, False),
        ("", False, False),
        ("positively", False, False),
        ("POSITIVE!", True, True),
    ],
)
def test_what_counts_as_the_answer(said: str, right: bool, named: bool) -> None:
    one = Asked(TASK, Item("x", ("positive",)), "", False)
    assert answered(one, said)[1:] == (right, named)


def test_every_spelling_counts() -> None:
    one = Asked(TASKS["opposite"], Item("open", ("closed", "shut")), "", False)
    assert answered(one, " Shut\n")[1]
