"""What a record from elsewhere says of itself: the part of its manifest that an import needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lensbench.errors import InputProblems, Problem, first_line
from lensbench.json_text import read_json


class _Told(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class ModelTold(_Told):
    """The model. Further facts (source, dtype, device, weights_sha256) are kept."""

    name: str = Field(min_length=1)
    n_layers: int = Field(ge=1, description="blocks; layer n_layers is the last")
    d_vocab: int | None = Field(None, ge=1, description="ranks and entropies are held to it")


class LensTold(BaseModel):
    """A lens. What is null is not known, and reports say so."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    norm: Literal["final", "next", "none", "other"] | None = Field(
        None, description="before the head: the model's final one, the next sub-layer's, none"
    )
    fitted: bool | None = Field(None, description="a map learnt from data stands before the norm")
    soft_cap: bool | None = Field(None, description="the model's soft cap of logits is in it")
    kl: Literal["model_lens"] | None = Field(
        None, description="model_lens: kl_bits is KL(model || lens). Else leave kl_bits out."
    )
    output: bool | None = Field(
        None, description="at the last layer it is the model's own output: its rank 1 is top-1"
    )
    description: str = ""


class MeasuredTold(_Told):
    """Who measured it. Who imported it is said by the record's other entries."""

    tool: str = Field(min_length=1, description="such as transformer-lens, tuned-lens")
    version: str | None = None
    by: str | None = None
    day: str | None = None
    source: str | None = Field(None, description="address of the data or code")


class SettingsTold(_Told):
    """What was asked."""

    lenses: list[str] = Field(default_factory=list, description="by name, the main one first")
    prompts: str | None = Field(None, description="name of the prompt set")
    template: str | None = None


class Told(_Told):
    """The manifest of a record from elsewhere. Other entries are left to lensbench."""

    model: ModelTold
    lenses: dict[str, LensTold] = Field(min_length=1)
    measured: MeasuredTold
    settings: SettingsTold = Field(default_factory=lambda: SettingsTold.model_validate({}))

    @property
    def names(self) -> list[str]:
        """The lenses, the main one first."""
        return self.settings.lenses or list(self.lenses)


def read_told(path: Path) -> Told:
    """The manifest in a file. Raises InputProblems with all that is wrong with it."""
    if not path.exists():
        what = "there is no such file, and it says which model was measured through which lens"
        remedy = "Write one (reports/import-manifest.schema.json), or name it with --manifest."
        raise InputProblems([Problem(str(path), what, remedy)])
    try:
        given = read_json(path)
    except (OSError, ValueError) as error:
        what = f"cannot be read as JSON ({first_line(error)})"
        raise InputProblems([Problem(str(path), what, "See `lensbench import --help`.")]) from error
    return told_by(given, str(path))


def told_by(given: Any, where: str) -> Told:
    """The same of what was read. Raises InputProblems with all that is wrong with it."""
    try:
        told = Told.model_validate(given)
    except ValidationError as error:
        raise InputProblems(
            [
                Problem(
                    f"{where}, {'.'.join(map(str, one['loc'])) or 'manifest'}",
                    f"{one['msg'][0].lower()}{one['msg'][1:]}",
                    "reports/import-manifest.schema.json says what belongs there.",
                )
                for one in error.errors()
            ]
        ) from None
    if twice := sorted({name for name in told.names if told.names.count(name) > 1}):
        what = f"settings.lenses names {', '.join(twice)} more than once"
        raise InputProblems([Problem(where, what, "Name each lens once.")])
    if unknown := [name for name in told.names if name not in told.lenses]:
        what = f"settings.lenses names {', '.join(unknown)}, which `lenses` does not describe"
        raise InputProblems([Problem(where, what, "Describe each lens.")])
    return told


def schema_json() -> str:
    """The JSON schema of such a manifest, with which an editor checks it."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lensbench import"}
    return json.dumps(about | Told.model_json_schema(), indent=2, sort_keys=True) + "\n"
