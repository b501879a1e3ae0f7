"""What a spec takes, what it refuses, and in which words."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from lensbench.errors import InputProblems, Problem
from lensbench.prompts.sets import load_prompts
from lensbench.spec import ARGUMENT, AllOr, Count, Positive, Share, Spec, nearest
from lensbench.studies.specs.lens import RunSpec


class Inner(Spec):
    """A part of another one."""

    rank: Count = 8


class Example(Spec):
    """One field of every sort."""

    model: Annotated[str, ARGUMENT]
    """The words that help shows."""
    inner: Inner = Inner()
    lenses: Annotated[tuple[Literal["final", "next", "raw"], ...], Field(min_length=1)] = ("final",)
    bits: Literal[4, 8] | None = 8
    layers: AllOr = None
    rate: Positive = 2e-4
    share: Share = 0.1
    limit: Count | None = None
    mid: bool = False
    names: tuple[str, ...] = ()
    device: Annotated[str | None, Field(exclude=True)] = None

    def problems(self) -> list[Problem]:
        together = self.mid and self.limit == 7
        return [Problem("mid", "it goes with no limit of 7", "Leave one out.")] * together


def problems(**given: Any) -> dict[str, str]:
    """What and remedy by where."""
    with pytest.raises(InputProblems) as caught:
        Example(**given)
    return {p.where: f"{p.what}. {p.remedy}" for p in caught.value.problems}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("lenses", "raw", ("raw",)),
        ("lenses", ["raw", "next"], ("raw", "next")),
        ("names", "one name", ("one name",)),
        ("layers", 10, (10,)),
        ("layers", range(3), (0, 1, 2)),
        ("layers", "7,0,3-5", (0, 3, 4, 5, 7)),
        ("layers", ["1-2", 2, "0"], (0, 1, 2)),
        ("layers", None, None),
        ("layers", "all", None),
        ("bits", "4", 4),
        ("limit", "20", 20),
        ("limit", 3.0, 3),
        ("rate", "5e-4", 5e-4),
        ("rate", 1, 1.0),
        ("mid", "true", True),
        ("inner", {"rank": 2}, Inner(rank=2)),
    ],
)
def test_a_value_whose_meaning_is_plain_is_taken(name: str, given: object, taken: object) -> None:
    found = getattr(Example("m", **{name: given}), name)
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("lenses", "rew", "it is 'rew'. Did you mean raw? Choose from: final, next, raw."),
        ("lenses", (), "it is empty. Give at least 1."),
        ("bits", 7, "it is 7. Choose from: 4, 8."),
        ("layers", "a-b", "Write it as 15-20 or 0,3,15-20, the smaller number first."),
        ("layers", "20-15", "Write it as 15-20 or 0,3,15-20, the smaller number first."),
        ("rate", math.inf, "it is inf. Give a finite number."),
        ("rate", "nan", "Give a finite number."),
        ("rate", 0, "it is 0. Give more than 0."),
        ("share", 1, "it is 1. Give less than 1."),
        ("limit", 0, "it is 0. Give at least 1."),
        ("limit", True, "it is True. Give a whole number."),
        ("limit", 2.5, "it is 2.5. Give a whole number."),
        ("limit", "many", "it is 'many'. Give a whole number."),
        ("mid", 1, "it is 1. Give true or false."),
        ("names", 3, "it is 3. Give a list, each item a string."),
        ("names", object(), "Give a list, each item a string."),
        ("model", 3, "it is 3. Give a string."),
        ("inner", 3, "it is 3. Give a Inner."),
        ("lensez", 3, "it is not known here. Did you mean lenses? Choose from: model,"),
    ],
)
def test_anything_else_is_one_sentence_with_its_remedy(name: str, given: object, said: str) -> None:
    found = problems(**{"model": "m", name: given})
    assert list(found) == [name]
    assert said in found[name]


def test_all_problems_come_at_once_those_of_a_part_too() -> None:
    found = problems(inner={"rank": 0}, lenses=("x", "y"), share=-1, extra=1)
    assert list(found) == ["model", "rank", "lenses", "share", "extra"]
    assert found["model"] == "it is missing. Add it."


def test_values_that_do_not_go_together_are_refused_at_any_time() -> None:
    assert list(problems(model="m", mid=True, limit=7)) == ["mid"]
    sound = Example("m", mid=True)
    with pytest.raises(InputProblems, match="no limit of 7"):
        sound.changed(limit=7)


def test_no_frame_of_another_library_is_in_what_a_user_sees() -> None:
    with pytest.raises(InputProblems) as caught:
        Example(model=3)
    assert caught.value.__suppress_context__
    assert {entry.path.name for entry in caught.traceback[-1:]} == {"spec.py"}  # type: ignore[union-attr]


def test_a_lens_run_says_plainly_what_it_was_given() -> None:
    facts = load_prompts("facts")
    spec = RunSpec(models="smollm2-135m", prompts=facts, lenses="final", limit="20")
    assert (spec.models, spec.lenses, spec.limit) == (("smollm2-135m",), ("final",), 20)
    assert load_prompts(spec.prompts) is facts
    assert "prompts" not in spec.settings()
    assert RunSpec("m", Path("a.csv")).prompts == "a.csv"
    with pytest.raises(InputProblems, match=r"prompts: it is 3\. Give a string"):
        RunSpec("m", prompts=3)


def test_settings_are_what_decides_the_numbers() -> None:
    settings = Example("m", layers="0-1", device="cpu").settings()
    assert "device" not in settings
    assert settings["layers"] == [0, 1]
    assert settings["inner"] == {"rank": 8}


def test_python_shows_the_fields_with_plain_types() -> None:
    assert str(inspect.signature(Inner)) == "(*, rank: int = 8)"
    shown = str(inspect.signature(Example))
    assert shown.startswith("(model: str, *, inner: tests.test_spec.Inner = Inner(rank=8)")
    assert "layers: Optional[tuple[int, ...]] = None, rate: float = 0.0002" in shown


def test_a_spec_is_a_value() -> None:
    one = Example("m", limit=3)
    assert one == Example("m", limit=3)
    assert hash(one) == hash(Example("m", limit=3))
    assert one.changed(limit=4) == Example("m", limit=4)
    with pytest.raises(Exception, match="frozen"):
        one.limit = 4  # type: ignore[misc]


@pytest.mark.parametrize("given", [20, "20", 2.5])
def test_per_cent_in_place_of_a_share_is_told_how_to_be_written(given: object) -> None:
    said = problems(model="m", share=given)["share"]
    assert said.endswith(f"Give less than 1. {float(str(given)):g} % is {float(str(given)) / 100}.")


@pytest.mark.parametrize("given", [-1, 200])
def test_what_is_no_share_in_per_cent_is_not_taken_for_one(given: int) -> None:
    assert "%" not in problems(model="m", share=given)["share"]


def test_a_long_list_says_how_many_it_leaves_out() -> None:
    names = [f"p{number}" for number in range(1234)]
    said = nearest("p1230x", names)
    assert said.startswith("Did you mean p123")
    assert said.endswith("p8, p9 and 1,224 more.")
    assert nearest("x", names[:40]) == f"Choose from: {', '.join(names[:40])}."
