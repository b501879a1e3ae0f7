"""Reading an `analysis.toml`: its `kind` says which spec it fills; all problems come at once."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

from lensbench.errors import InputProblems, Problem
from lensbench.studies.adapter_spec import AdapterSpec
from lensbench.studies.correlation_spec import CorrelationStudySpec
from lensbench.studies.diff_spec import DiffSpec
from lensbench.studies.lens_spec import RunSpec
from lensbench.studies.placement_spec import PlacementSpec

ANALYSIS = "analysis.toml"
Spec = RunSpec | AdapterSpec | CorrelationStudySpec | DiffSpec | PlacementSpec
KINDS: dict[str, type[Spec]] = {
    "lens": RunSpec,
    "adapter": AdapterSpec,
    "correlation": CorrelationStudySpec,
    "diff": DiffSpec,
    "placement": PlacementSpec,
}
_FILES = (
    "prompts",
    "other_prompts",
    "documents",
    "data",
)  # keys that may name a file beside the analysis


def read_analysis(folder: Path) -> Spec:
    """The spec of `analyses/NNN_question/analysis.toml`; the folder's name is the run's.

    Raises InputProblems naming every unknown key, wrong type and unknown value at once.
    """
    path = folder / ANALYSIS if folder.is_dir() else folder
    content = _content(path)
    kind = content.pop("kind", "lens")
    if kind not in KINDS:
        remedy = f"Choose from: {', '.join(KINDS)}."
        raise InputProblems([Problem(str(path), f"kind = {kind!r} is not known", remedy)])
    problems = list(_key_problems(content, str(path), KINDS[kind]))
    if problems:
        raise InputProblems(problems)
    values = {key: _value(key, value, path.parent) for key, value in content.items()}
    spec = KINDS[kind](name=path.parent.resolve().name, **values)
    if found := spec.problems(str(path)):
        raise InputProblems(found)
    return spec


def _content(path: Path) -> dict[str, Any]:
    where = str(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a folder that holds an {ANALYSIS}."
        raise InputProblems([Problem(where, "there is no such file", remedy)]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputProblems([Problem(where, f"it is not TOML ({error})", "Mend it.")]) from error


def _value(key: str, value: Any, folder: Path) -> Any:
    """TOML has no null and no tuple; a file is looked up beside the analysis first."""
    if key == "limit" and value == 0:  # 0 stands for all
        return None
    if key in _FILES:
        given = value if isinstance(value, list) else [value]
        found = [str(folder / item) if (folder / item).is_file() else item for item in given]
        return tuple(found) if isinstance(value, list) else found[0]
    return tuple(value) if isinstance(value, list) else value


def _key_problems(content: dict[str, Any], where: str, spec: type[Spec]) -> list[Problem]:
    fields = {field.name: field for field in dataclasses.fields(spec) if field.name != "name"}
    known = f"Known keys: {', '.join(sorted(fields))}."
    found = [
        Problem(where, f"the key '{key}' is not known", known)
        for key in sorted(set(content) - set(fields))
    ]
    hints = get_type_hints(spec)
    found += [
        Problem(where, f"'{key}' is {content[key]!r}", f"It must be {wrong}.")
        for key in sorted(set(content) & set(fields))
        if (wrong := _wrong_type(content[key], str(hints[key])))
    ]
    found += [
        Problem(where, f"the key '{key}' is missing", "Add it.")
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and key not in content
    ]
    return found


def _wrong_type(value: Any, hint: str) -> str | None:
    """What `value` should have been, or None if it is."""
    if hint.startswith("tuple"):
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return None if good else "a list of strings"
    for start, kinds, words in (
        ("<class 'bool'", (bool,), "true or false"),
        ("<class 'float'", (int, float), "a number"),
        ("<class 'int'", (int,), "a whole number"),
        ("int |", (int,), "a whole number"),
    ):
        if hint.startswith(start):
            return None if type(value) in kinds else words
    return None if isinstance(value, str) else "a string"
