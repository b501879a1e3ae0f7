"""A model at a precision and with an adapter, as one name: NAME[@BITS][+ADAPTER]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from lensbench.checkpoints.source import locate
from lensbench.errors import InputProblems, LensbenchError, Problem

Bits = Literal[4, 8, 16, 32]
FORM = "NAME[@BITS][+ADAPTER]"

_ADAPTER_CONFIG = "adapter_config.json"
# The first @BITS or, without one, the first + ends the name; so a folder with a + in its name needs
# its bits written. An adapter's folder may hold both signs.
_WITH_BITS = re.compile(r"(?P<name>.*?)@(?P<bits>[^+@/]*)(?:\+(?P<adapter>.*))?", re.DOTALL)
_WITH_ADAPTER = re.compile(r"(?P<name>[^+]*)\+(?P<adapter>.*)", re.DOTALL)


@dataclass(frozen=True)
class Variant:
    """A model by name, its precision and its adapter's folder; None leaves both to the defaults.

    `str()` of it is the `model` of a record: the adapter by its folder's name, so that no record
    holds a path of somebody's machine.
    """

    name: str  # alias, hub name or folder, as `locate` takes it
    bits: Bits | None = None
    adapter: Path | None = None

    @property
    def plain(self) -> bool:
        """Just a model: it is loaded as if there were no variants."""
        return self.bits is None and self.adapter is None

    def __str__(self) -> str:
        bits = "" if self.bits is None else f"@{self.bits}"
        return (
            self.name + bits + ("" if self.adapter is None else f"+{self.adapter.resolve().name}")
        )


def parse_variant(text: str) -> Variant:
    """The model that `text` names: a name alone, with `@8`, with `+runs/adapter`, or with both.

    An existing folder is a name, whatever signs it holds.

    Raises:
        InputProblems: everything that is wrong with bits, adapter and name, at once.
        ModelError: a name alone that is no model's (as `locate` says it).
    """
    parts = _parts(text)
    if parts is None:
        locate(text)
        return Variant(text)
    problems = [
        *_name_problems(text, name := str(parts["name"])),
        *_bits_problems(text, parts["bits"]),
        *_adapter_problems(text, parts["adapter"]),
    ]
    if problems:
        raise InputProblems(problems)
    bits, adapter = parts["bits"], parts["adapter"]
    return Variant(
        name,
        cast(Bits, int(bits)) if bits is not None else None,
        Path(adapter).expanduser() if adapter is not None else None,
    )


def parse_variants(names: Sequence[str]) -> tuple[list[Variant], list[Problem]]:
    """Every model that can be told, and all that is wrong with the others.

    Two of one `str()`, such as adapters in folders of one name, would be one record: a problem too.
    """
    found: list[Variant] = []
    problems: list[Problem] = []
    for name in names:
        try:
            found.append(parse_variant(name))
        except InputProblems as error:
            problems += error.problems
        except LensbenchError as error:
            problems.append(Problem(f"model {name}", str(error).rstrip("."), ""))
    labels = [str(variant) for variant in found]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        remedy = "Name it once; if they are two adapters, rename the folder of one."
        problems.append(Problem(f"model {label}", "two models of that name were given", remedy))
    return found, problems


def _parts(text: str) -> dict[str, str | None] | None:
    """Name, bits and adapter as written; None for a name alone."""
    if Path(text).expanduser().is_dir():
        return None
    adapter = _WITH_ADAPTER.fullmatch(text)
    if adapter and "@" not in adapter["name"] and Path(adapter["adapter"]).expanduser().is_dir():
        return {**adapter.groupdict(), "bits": None}
    bits = _WITH_BITS.fullmatch(text)
    if bits:
        return bits.groupdict()
    return {**adapter.groupdict(), "bits": None} if adapter else None


def _name_problems(text: str, name: str) -> list[Problem]:
    try:
        locate(name)
    except InputProblems as error:
        return error.problems
    except LensbenchError as error:
        return [Problem(f"model {text}", str(error).rstrip("."), f"Write {FORM}.")]
    return []


def _bits_problems(text: str, bits: str | None) -> list[Problem]:
    known = [str(number) for number in get_args(Bits)]
    if bits is None or bits in known:
        return []
    what = f"{bits!r} after the @ is no number of bits"
    return [Problem(f"model {text}", what, f"Give one of {', '.join(known)}: {FORM}.")]


def _adapter_problems(text: str, adapter: str | None) -> list[Problem]:
    if adapter is None:
        return []
    folder, where = Path(adapter).expanduser(), f"model {text}"
    remedy = "Give the folder that `lensbench train` made: NAME+FOLDER."
    if not adapter.strip():
        return [Problem(where, "no adapter stands after the +", remedy)]
    if not folder.is_dir():
        return [Problem(where, f"there is no folder {adapter}", remedy)]
    if not (folder / _ADAPTER_CONFIG).is_file():
        return [Problem(where, f"{adapter} holds no adapter (no {_ADAPTER_CONFIG})", remedy)]
    return []
