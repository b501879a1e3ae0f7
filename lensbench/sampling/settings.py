"""How the next token is drawn: one setting, its name, and the settings that are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from lensbench.errors import InputProblems, Problem
from lensbench.records.schema.text.sampling import GREEDY, OWN
from lensbench.spec import Spec, nearest, percent

Range = tuple[float, float]
_TEMPERATURES: Range = (0.001, 1000)  # beyond, logits over temperature are no float32 numbers
_PENALTIES: Range = (0.01, 100)
_SHARE = "Give more than 0 and at most 1 (1 keeps every token)."
_THRESHOLD = "Give a number from 0 (keeps every token) to 1 (the likeliest alone)."


def _temperature(given: float) -> float:
    least, most = _TEMPERATURES
    if given != 0 and not least <= given <= most:
        raise ValueError(f"Give 0 (greedy), or a number from {least:g} to {most:g}.")
    return given


def _share(given: float) -> float:
    if not 0 < given <= 1:
        raise ValueError(_SHARE + percent(given))
    return given


def _threshold(given: float) -> float:
    if not 0 <= given <= 1:
        raise ValueError(_THRESHOLD + percent(given))
    return given


def _count(given: int) -> int:
    if given < 0:
        raise ValueError("Give 0 (keeps every token), or how many to keep.")
    return given


def _penalty(given: float) -> float:
    least, most = _PENALTIES
    if not least <= given <= most:
        raise ValueError(f"Give a number from {least:g} to {most:g} (1 changes nothing).")
    return given


class Setting(Spec):
    """How the next token is drawn; without an argument, from the model's own distribution.

    What is given applies in the order of transformers' generate: penalty, temperature, top-k,
    top-p, min-p. At temperature 0 the likeliest token is taken.
    """

    temperature: Annotated[float, AfterValidator(_temperature)] = 1.0
    """Logits are divided by it; 0 is greedy (.001 to 1,000)."""
    top_k: Annotated[int, AfterValidator(_count)] = 0
    """Only so many likeliest tokens; 0: all."""
    top_p: Annotated[float, AfterValidator(_share)] = 1.0
    """Only the likeliest tokens that hold this probability together, 0 < p <= 1 (Holtzman et al.
    2020)."""
    min_p: Annotated[float, AfterValidator(_threshold)] = 0.0
    """Only tokens at least this likely beside the likeliest, 0 to 1 (Nguyen et al. 2024)."""
    repetition_penalty: Annotated[float, AfterValidator(_penalty)] = 1.0
    """Above 1: tokens that stood before become less likely (Keskar et al. 2019; .01 to 100)."""

    @property
    def greedy(self) -> bool:
        """Whether chance takes no part."""
        return self.temperature == 0

    @property
    def name(self) -> str:
        """Such as `T=0.7 top-p=0.9`, what is off left out: `setting_of` reads it again."""
        said = ["greedy"] if self.greedy else []
        said += [
            f"{short}={_said(getattr(self, field))}"
            for short, field in _SHORT.items()
            if getattr(self, field) != type(self).model_fields[field].default
            and not (field == "temperature" and self.greedy)
        ]
        return " ".join(said) or OWN

    def problems(self) -> list[Problem]:
        """At temperature 0 filters have no effect: the likeliest token passes all of them."""
        if not self.greedy:
            return []
        what = "it has no effect at temperature 0, where the likeliest token is taken"
        return [
            Problem(field, what, "Leave one of them out.")
            for field in ("top_k", "top_p", "min_p")
            if getattr(self, field) != type(self).model_fields[field].default
        ]


_SHORT = {
    "T": "temperature",
    "top-k": "top_k",
    "top-p": "top_p",
    "min-p": "min_p",
    "penalty": "repetition_penalty",
}
PUBLISHED = ("T=0.1", "T=0.7", "T=1.2", "top-p=0.9")  # sweet spots that are passed on
GRID = (
    GREEDY,
    *(f"T={t}" for t in ("0.1", "0.3", "0.5", "0.7", "1", "1.2", "1.5", "2")),
    *(f"top-k={k}" for k in (5, 20, 50, 100)),
    *(f"top-p={p}" for p in ("0.5", "0.8", "0.9", "0.95")),
    *(f"min-p={p}" for p in ("0.02", "0.05", "0.1", "0.2")),
    *(f"penalty={r}" for r in ("1.1", "1.2", "1.5")),
    "T=0.7 top-p=0.9",
    "T=1.5 min-p=0.1",
)
# Of these texts are written: the published ones, greedy, the model's own, and one of each filter.
WRITTEN = (GREEDY, OWN, *PUBLISHED, "top-k=50", "min-p=0.1", "penalty=1.2")


def setting_of(text: str) -> Setting:
    """A setting by its name: `greedy`, or `T=0.7 top-p=0.9`.

    Raises InputProblems with all that is wrong with it.
    """
    given: dict[str, float] = {}
    problems: list[Problem] = []
    for part in text.replace(",", " ").split() or [""]:
        if part == GREEDY:
            part = "T=0"
        key, _, value = part.partition("=")
        field = _SHORT.get(key, key.replace("-", "_"))
        if field not in Setting.model_fields:
            known = (GREEDY, *(f"{short}=..." for short in _SHORT))
            problems.append(Problem(text, f"it says {part!r}", nearest(part, known)))
        elif field in given:
            problems.append(Problem(text, f"it says {key} twice", "Say it once."))
        else:
            given[field] = _number(value, text, key, problems)
    found = None
    try:
        found = Setting(**{key: _whole(value) for key, value in given.items()})  # type: ignore[arg-type]
    except InputProblems as error:
        problems += [Problem(f"{text}, {p.where}", p.what, p.remedy) for p in error.problems]
    if problems or found is None:
        raise InputProblems(problems)
    return found


def settings_of(names: tuple[str, ...] | list[str]) -> list[Setting]:
    """Several, by their names, each once; InputProblems with all that is wrong with any."""
    found: dict[str, Setting] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            one = setting_of(name)
        except InputProblems as error:
            problems += error.problems
            continue
        if one.name in found:
            problems.append(Problem(name, "it stands twice", "Name it once."))
        found[one.name] = one
    if problems:
        raise InputProblems(problems)
    return list(found.values())


def _number(value: str, text: str, key: str, problems: list[Problem]) -> float:
    try:
        return float(value)
    except ValueError:
        problems.append(Problem(text, f"{key} is {value!r}", f"Write a number: {key}=0.5."))
        return 1.0


def _said(value: float) -> str:
    """As short as it can be without being another number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _whole(value: float) -> float | int:
    """A whole number as one, as `top_k` wants it."""
    return int(value) if value.is_integer() else value
