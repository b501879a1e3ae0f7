"""A spec: everything that a study or a verb is told, declared once, whoever tells it.

A field's type, bounds, default and the words beneath it are an option of the command line, a key of
an `analysis.toml`, an argument in Python, a setting in a manifest and a row of the docs.
"""

from __future__ import annotations

import difflib
import inspect
import re
import reprlib
import types
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
)

from cyclopts import Parameter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

from lensbench.device import as_named
from lensbench.errors import InputProblems, Problem


class Spec(BaseModel):
    """Base of every spec: frozen, and sound as soon as it is made.

    Arguments go by name, or in the order of the fields. A validator of a field raises ValueError
    with what to do, or InputProblems. Raises InputProblems with all that is wrong with the values.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    alone: ClassVar[str] = ""  # why workers cannot share what is asked for; empty: they can

    if not TYPE_CHECKING:  # a type checker takes the arguments from the fields

        def __init__(self, *values: Any, **given: Any) -> None:
            named = dict(zip(type(self).model_fields, values, strict=False)) | given
            try:
                super().__init__(**named)
            except ValidationError as error:
                raise InputProblems(problems_of(error, type(self))) from None
            if wrong := self.problems():
                raise InputProblems(wrong)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():
            field.kw_only = field.kw_only is not False
            field.description = " ".join((field.description or "").split()) or None
        in_order = sorted(  # those that go by their place come first, then those that are needed
            cls.model_fields.items(),
            key=lambda named: (named[1].kw_only, not named[1].is_required()),
        )
        cls.__pydantic_fields__ = dict(in_order)
        cls.__signature__ = _signature(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """One value where several are wanted is a list of it; true is no number, and 1 not true.

        One of a few numbers may be written as text, as it comes from the command line.
        """
        hints = _alternatives(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in hints:
            raise PydanticKnownError("int_type")
        if type(value) is int and bool in hints and int not in hints:
            raise PydanticKnownError("bool_type")
        if isinstance(value, (str, int)) and any(get_origin(hint) is tuple for hint in hints):
            return (value,)
        few = {str(choice): choice for choice in _choices(hints)}
        return few.get(value, value) if isinstance(value, str) else value

    def problems(self) -> list[Problem]:
        """What is wrong with values that do not go together; each of them alone is sound."""
        return []

    def require_shareable(self) -> None:
        """Raise InputProblems, with the reason, where workers cannot share what is asked for."""
        if self.alone:
            what = f"no other process can take part: {self.alone}"
            raise InputProblems([Problem("workers", what, "Leave it and `ray` out.")])

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, for a manifest: every field that is not excluded."""
        return self.model_dump(mode="json")

    def shared(self, other: type[Spec]) -> dict[str, Any]:
        """The values of the fields that another spec has too, to make one of it."""
        own = type(self).model_fields
        return {name: getattr(self, name) for name in other.model_fields if name in own}

    def changed(self, **changes: Any) -> Self:
        """The same with other values for these fields. Raises InputProblems."""
        return type(self)(**(self.shared(type(self)) | changes))


def _signature(spec: type[Spec]) -> inspect.Signature:
    """What Python's help shows: the fields with their types, bounds taken off."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY
                if field.kw_only
                else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if field.is_required() else field.default,
                annotation=_plain(field.annotation),
            )
            for name, field in spec.model_fields.items()
        ]
    )


ARGUMENT = Field(kw_only=False)  # on the command line it goes by its place, without a name
HIDDEN = Parameter(parse=False)  # no option of the command line
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Device = Annotated[
    str | None,
    AfterValidator(as_named),
    PlainSerializer(lambda device: device and re.sub(r"=[^,]*", "", device)),  # no folder, no size
    Field(description="cpu, cuda, cuda:1, mps. Default: the first there is of cuda, mps, cpu."),
]
Devices = Annotated[
    Device,
    Field(
        description="cpu, cuda, cuda:1, mps; a list for a large model (cuda:0,cuda:1,cpu=20GB,"
        "disk=FOLDER), or auto. Default: the first there is of cuda, mps, cpu."
    ),
]


def numbers(given: Any) -> Any:
    """`0,3,15-20` or several of them as sorted numbers, each once."""
    if not isinstance(given, (tuple, list, range)):
        return given
    found: set[int] = set()
    for part in (part for item in given for part in str(item).split(",")):
        first, dash, last = (end.strip() for end in part.partition("-"))
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError("Write it as 15-20 or 0,3,15-20, the smaller number first.")
        found |= set(range(int(first), int(last) + 1))
    return tuple(sorted(found))


def ranges(given: Iterable[int], between: str = ",") -> str:
    """Sorted whole numbers as `numbers` reads them: `0,3,15-20`."""
    runs: list[list[int]] = []
    for number in map(int, given):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return between.join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


Numbers = Annotated[tuple[int, ...], BeforeValidator(numbers)]
AllOr = Annotated[  # `all` in words; None
    Numbers | None, BeforeValidator(lambda given: None if given == ("all",) else given)
]


def one_of(names: Iterable[str]) -> AfterValidator:
    """For text that is one of some names."""
    known = tuple(names)

    def check(given: str) -> str:
        if given not in known:
            raise ValueError(nearest(given, known))
        return given

    return AfterValidator(check)


def repeated(key: str, given: Sequence[str]) -> list[Problem]:
    """Names that stand more than once where each may stand once."""
    twice = sorted({name for name in given if given.count(name) > 1})
    return [Problem(key, f"{name} stands twice", "Name it once.") for name in twice]


def idle(spec: Spec, needed: str, *names: str) -> list[Problem]:
    """Values that have no effect, because another one is not given."""
    if getattr(spec, needed):
        return []
    what = f"it has no effect without `{needed}`"
    return [Problem(name, what, "Leave it out.") for name in names if getattr(spec, name)]


def without_effect(spec: Spec, names: Collection[str], how: str) -> list[Problem]:
    """Those of some fields that were given although they do nothing `how`: "without `out`"."""
    given = [name for name in type(spec).model_fields if name in spec.model_fields_set]
    what = f"it has no effect {how}"
    return [Problem(name, what, "Leave it out.") for name in given if name in names]


def problems_of(error: ValidationError, spec: type[Spec]) -> list[Problem]:
    """What pydantic found, in our words; what a validator of ours found, as it said it."""
    found: list[Problem] = []
    for item in error.errors(include_url=False):
        facts = item.get("ctx", {})
        if isinstance(facts.get("error"), InputProblems):
            found += facts["error"].problems
            continue
        key, kind, value = str(item["loc"][0]), item["type"], item["input"]
        if kind == "too_short" and any(problem.where == key for problem in found):  # of its items
            continue
        if kind == "missing":
            found.append(Problem(key, "it is missing", "Add it."))
        elif kind == "extra_forbidden":
            found.append(Problem(key, "it is not known here", nearest(key, spec.model_fields)))
        else:
            one = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
            what = "it is empty" if value in ((), []) else f"it is {_SHORT.repr(one)}"
            hint = spec.model_fields[key].annotation
            found.append(Problem(key, what, _remedy(kind, value, facts, hint)))
    return found


_BOUNDS = {
    "greater_than_equal": "Give at least {ge:g}.",
    "greater_than": "Give more than {gt:g}.",
    "less_than_equal": "Give at most {le:g}.",
    "less_than": "Give less than {lt:g}.",
    "finite_number": "Give a finite number.",
    "too_short": "Give at least {min_length}.",
}
_MOST, _SHOWN = 40, 10  # names that are listed whole, and so many of more than that
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    type(None): "",
}


def _remedy(kind: str, value: object, facts: dict[str, Any], hint: Any) -> str:
    if kind == "value_error":
        return str(facts["error"])
    if kind == "literal_error":
        return nearest(value, _choices(_alternatives(hint)))
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**facts) + _percent(value, facts)
    return f"Give {' or '.join(filter(None, map(_wanted, _alternatives(hint))))}."


def _percent(value: object, facts: dict[str, Any]) -> str:
    """How to write what looks like per cent where a share of 1 is wanted."""
    most = facts.get("le", facts.get("lt"))
    return percent(float(value)) if most == 1 and isinstance(value, int | float | str) else ""


def percent(given: float) -> str:
    """What follows the range of a share where per cent were given; else nothing."""
    return f" {given:g} % is {given / 100:g}." if 1 < given <= 100 else ""


def _wanted(hint: Any) -> str:
    """What a value of this type is called."""
    if get_origin(hint) is tuple:
        (item,) = _alternatives(get_args(hint)[0])
        return f"a list, each item {_WORDS.get(item, 'one of those that are known')}"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def nearest(given: object, known: Iterable[object]) -> str:
    """What to choose from, the one that looks most like what was given first.

    Of many the first ones, and how many more there are.
    """
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(given), names, n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    shown = names if len(names) <= _MOST else names[:_SHOWN]
    more = f" and {len(names) - len(shown):,} more" * (len(shown) < len(names))
    return f"{meant}Choose from: {', '.join(shown)}{more}."


def _plain(hint: Any) -> Any:
    """A type without its bounds."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain(parts[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_plain, parts))]  # noqa: UP007
    return tuple[tuple(map(_plain, parts))] if origin is tuple else hint  # type: ignore[misc]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type, without their bounds."""
    plain = _plain(hint)
    return get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)


def _choices(hints: Iterable[Any]) -> list[Any]:
    """All that may be chosen: those of a literal, or of a list's items."""
    found: list[Any] = []
    for hint in hints:
        if get_origin(hint) is Literal:
            found += get_args(hint)
        elif get_origin(hint) is tuple:
            found += _choices(_alternatives(get_args(hint)[0]))
    return found
