"""What a run measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.errors import InputProblems, Problem
from lensbench.records.schema import LENSES, POINTS

ANALYSIS = "analysis.toml"
_CHOICES = {"lenses": LENSES, "points": POINTS, "template": ("plain", "chat")}


@dataclass(frozen=True)
class RunSpec:
    """A run, declared. The same spec, prompts and weights give the same records.

    `limit` is how many base prompts are asked, spread over relations, each with its paraphrases,
    reverses and controls; None asks all. `heatmap_prompts` of them are read at every position.
    """

    name: str
    models: tuple[str, ...]
    prompts: str = "facts"
    limit: int | None = 240
    relations: tuple[str, ...] = ()
    lenses: tuple[str, ...] = LENSES
    points: tuple[str, ...] = ("embed", "resid_post")
    top_k: int = 5
    heatmap_prompts: int = 12
    template: str = "plain"
    batch_tokens: int = 512
    dtype: str | None = None
    device: str | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, for the manifest; models and name do not."""
        fields = dataclasses.asdict(self)
        del fields["name"], fields["models"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            given = value if isinstance(value, tuple) else (value,)
            strange = [item for item in given if item not in allowed]
            if strange or not given:
                what = f"{key} = {', '.join(map(repr, strange)) or 'nothing'} is not known"
                found.append(Problem(where, what, f"Choose from: {', '.join(allowed)}."))
        least = {"limit": 1, "top_k": 1, "heatmap_prompts": 0, "batch_tokens": 1}
        for key, minimum in least.items():
            value = getattr(self, key)
            if value is not None and value < minimum:
                found.append(Problem(where, f"{key} = {value}", f"Give at least {minimum}."))
        if not {"embed", "resid_post"} <= set(self.points):
            what = f"points = {', '.join(self.points)} leaves out embed or resid_post"
            found.append(Problem(where, what, "Milestones are read there: name both."))
        if not self.models:
            found.append(Problem(where, "no model is named", "Name at least one model."))
        doubled = sorted({m for m in self.models if self.models.count(m) > 1})
        if doubled:
            found.append(Problem(where, f"{', '.join(doubled)} stands twice", "Name it once."))
        return found


def read_analysis(folder: Path) -> RunSpec:
    """The RunSpec of `analyses/NNN_question/analysis.toml`; the folder's name is the run's.

    Raises InputProblems naming every unknown key, wrong type and unknown value at once.
    """
    path = folder / ANALYSIS if folder.is_dir() else folder
    where = str(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a folder that holds an {ANALYSIS}."
        raise InputProblems([Problem(where, "there is no such file", remedy)]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputProblems([Problem(where, f"it is not TOML ({error})", "Mend it.")]) from error
    problems = list(_key_problems(content, where))
    if problems:
        raise InputProblems(problems)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    if values.get("limit") == 0:  # TOML has no null: 0 stands for all
        values["limit"] = None
    beside = path.parent / values.get("prompts", "")
    if beside.is_file():  # a prompt file is looked up beside the analysis that names it first
        values["prompts"] = str(beside)
    spec = RunSpec(name=path.parent.resolve().name, **values)
    if found := spec.problems(where):
        raise InputProblems(found)
    return spec


_TYPES = {"models": list, "relations": list, "lenses": list, "points": list, "limit": int}
_TYPES |= {"top_k": int, "heatmap_prompts": int, "batch_tokens": int}


def _key_problems(content: dict[str, Any], where: str) -> list[Problem]:
    known = {field.name for field in dataclasses.fields(RunSpec)} - {"name"}
    unknown = sorted(set(content) - known)
    found = [
        Problem(where, f"the key '{key}' is not known", f"Known keys: {', '.join(sorted(known))}.")
        for key in unknown
    ]
    for key in sorted(set(content) & known):
        wanted = _TYPES.get(key, str)
        value = content[key]
        items = value if wanted is list and isinstance(value, list) else []
        if type(value) is not wanted or not all(isinstance(item, str) for item in items):
            kind = {list: "a list of strings", int: "a whole number", str: "a string"}[wanted]
            found.append(Problem(where, f"'{key}' is {value!r}", f"It must be {kind}."))
    if "models" not in content:
        found.append(Problem(where, "the key 'models' is missing", "List at least one model."))
    return found
