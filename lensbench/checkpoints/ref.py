"""A model's name, resolved once: NAME[@BITS[:THRESHOLD]][+ADAPTER].

Every verb, the Python API and every analysis makes a `ModelRef` of what a user wrote, and goes by
nothing else afterwards.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from lensbench.checkpoints.families import family_for_alias
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.identity import sha256_once
from lensbench.checkpoints.source import Located, locate
from lensbench.errors import InputProblems, LensbenchError, ModelError, Problem

Bits = Literal[4, 8, 16, 32]
Use = Literal["lens", "generation"]  # what loads it; generation: inference, training, evaluation
FORM = "NAME[@BITS[:THRESHOLD]][+ADAPTER]"

# What a name may leave open, by its use. The lens reads a bare name as `load_model` does, in
# floating point; the second path is for small machines.
DEFAULT_BITS: dict[Use, Bits | None] = {"lens": None, "generation": 8}
# LLM.int8 keeps columns of activations above a threshold in 16 bits, and picks them over a whole
# batch: with its usual threshold of 6 what is read of a prompt depends on the prompts beside it.
# With 0 it picks none, and batches change nothing; that costs accuracy.
INT8_THRESHOLD: dict[Use, float] = {"lens": 0.0, "generation": 6.0}

_log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ModelRef:
    """One model: its name, the precision of its weights and the adapter on them.

    Made by `ModelRef.of`, which knows every way to say it. `int8_threshold` is None unless there
    are 8 bits. `str()` is the one printed form: the adapter by its folder's name, so that no record
    holds a path of somebody's machine, and the threshold where it is not the default of the use.
    """

    name: str  # alias, hub name or folder, as `locate` has it
    bits: Bits | None = None  # None: floating point, as `load_model` picks it
    int8_threshold: float | None = None
    adapter: Path | None = None
    use: Use = "lens"

    @classmethod
    def of(
        cls,
        model: str | Path | ModelRef | Loaded,
        *,
        bits: Bits | None = None,
        int8_threshold: float | None = None,
        adapter: str | Path | None = None,
        use: Use = "lens",
    ) -> ModelRef:
        """The model that a name, what was said besides, and the defaults of its use make together.

        A loaded model is what it was loaded as. A name may hold the signs @ and + where a folder is
        called so: of all ways to read it, the one counts whose name is an alias, or else the
        longest that is a model's.

        Raises:
            InputProblems: everything that is wrong with name, bits, threshold and adapter, and
                what the name and the arguments say differently, at once.
            ModelError: a name alone that is no model's (as `locate` says it).
        """
        check = _Check(f"model {getattr(model, 'ref', model)}")
        named = _named(model, check)
        given = check.said(bits, int8_threshold, adapter)
        check.agree(named, given)
        said = named | {key: value for key, value in given.items() if value is not None}
        if said["bits"] is None:
            said["bits"] = DEFAULT_BITS[use]
        if said["bits"] == 8 and said["int8_threshold"] is None:
            said["int8_threshold"] = INT8_THRESHOLD[use]
        if said["bits"] != 8 and said["int8_threshold"] is not None and not check.problems:
            check.wrong("an outlier threshold is for 8 bits", "Leave it out, or take 8 bits.")
        if check.problems:
            raise InputProblems(check.problems)
        return cls(**said, use=use)

    def at(self, bits: Bits) -> ModelRef:
        """The same model at other bits; at 8 with its own threshold, or the default of its use."""
        bare = replace(self, bits=None, int8_threshold=None)
        threshold = self.int8_threshold if bits == 8 else None
        return ModelRef.of(bare, bits=bits, int8_threshold=threshold, use=self.use)

    @property
    def plain(self) -> bool:
        """Just a model in floating point: no bits, no adapter."""
        return self.bits is None and self.adapter is None

    @property
    def located(self) -> Located:
        """Where the model is, and what is known of it."""
        return locate(self.name)

    @property
    def folder(self) -> Path:
        """The model's folder, checked to be complete; a ModelError says how to get it."""
        return self.located.require_folder()

    def say_what_lies_beside(self) -> None:
        """Warn of an adapter in the model's own folder, which is no part of the model."""
        folder = self.folder
        itself = self.adapter is not None and self.adapter.resolve() == folder.resolve()
        if (folder / ADAPTER_CONFIG).is_file() and not itself:
            _log.warning(
                "%s holds an adapter too (%s), which is left out: the model is its own weights. "
                "Name both to put it on: %s+%s",
                self.name,
                ADAPTER_CONFIG,
                self.name,
                self.name,
            )

    @property
    def precision(self) -> str:
        """Bits, threshold and adapter in words; empty for a plain model."""
        threshold = self.int8_threshold
        method = "" if threshold is None else f" (LLM.int8, outlier threshold {threshold:g})"
        bits = [] if self.bits is None else [f"{self.bits} bits{method}"]
        adapter = [] if self.adapter is None else [f"adapter {self.adapter.resolve().name}"]
        return ", ".join(bits + adapter)

    def facts(self) -> dict[str, Any]:
        """What decides the weights, for a manifest: hashes; with bits or an adapter, these too.

        Raises ModelError when the model or the adapter's weights are not there.
        """
        found: dict[str, Any] = dict(hashes(self.folder))
        if self.plain:
            return found
        found |= {"bits": self.bits, "int8_threshold": self.int8_threshold, "adapter": None}
        return found if self.adapter is None else found | _adapter_facts(self.adapter)

    def __str__(self) -> str:
        bits = "" if self.bits is None else f"@{self.bits}"
        if self.int8_threshold not in (None, INT8_THRESHOLD[self.use]):
            bits += f":{_number(self.int8_threshold)}"
        return (
            self.name + bits + ("" if self.adapter is None else f"+{self.adapter.resolve().name}")
        )


class Loaded(Protocol):
    """A model in memory that says what it was loaded as."""

    @property
    def ref(self) -> ModelRef:
        """Its name, precision and adapter."""


def model_refs(models: Sequence[str | Path | ModelRef], use: Use = "lens") -> list[ModelRef]:
    """Several models. Raises InputProblems with all that is wrong with any of them.

    Two of one `str()`, such as adapters in folders of one name, would be one record: a problem too.
    """
    found, unknown = readable_refs(models, use)
    if unknown:
        raise InputProblems(_problems(unknown))
    return found


def readable_refs(
    models: Sequence[str | Path | ModelRef], use: Use = "lens"
) -> tuple[list[ModelRef], dict[str, LensbenchError]]:
    """Several models each of which is measured by itself; and by name, why others cannot be.

    A path that leads nowhere and a name that nobody knows are no reason to leave the others out:
    what is measured of them is kept, and goes on when the name is mended.

    Raises InputProblems with all that is wrong where no model is left, and for two of one name.
    """
    found: list[ModelRef] = []
    unknown: dict[str, LensbenchError] = {}
    for model in models:
        try:
            found.append(ModelRef.of(model, use=use))
        except LensbenchError as error:
            unknown[str(model)] = error
    labels = [str(ref) for ref in found]
    remedy = "Name it once; if they are two adapters, rename the folder of one."
    twice = [
        Problem(f"model {label}", "two models of that name were given", remedy)
        for label in sorted({label for label in labels if labels.count(label) > 1})
    ]
    if twice or (unknown and not found):
        raise InputProblems([*_problems(unknown), *twice])
    return found, unknown


def _problems(unknown: Mapping[str, LensbenchError]) -> list[Problem]:
    """Why models cannot be named."""
    found: list[Problem] = []
    for name, error in unknown.items():
        own = [Problem(f"model {name}", str(error).rstrip("."), "")]
        found += error.problems if isinstance(error, InputProblems) else own
    return found


# --- reading a name -----------------------------------------------------------------------------

_BITS = re.compile(r"(?P<name>.*)@(?P<bits>[^@+/:]*)(?::(?P<threshold>[^@+/]*))?", re.DOTALL)


@dataclass(frozen=True)
class _Reading:
    """One way to take a text apart; the parts as they are written."""

    name: str
    bits: str | None = None
    threshold: str | None = None
    adapter: str | None = None

    @property
    def is_model(self) -> bool:
        """The name is a model's, and an adapter's folder is there."""
        if self.adapter is not None and not _is_folder(self.adapter):
            return False
        try:
            locate(self.name)
        except LensbenchError:
            return False
        return True


def _readings(text: str) -> Iterator[_Reading]:
    """Every way: any + may begin the adapter or none, and an @ before it the bits or none."""
    for cut in [len(text), *(i for i, sign in enumerate(text) if sign == "+")]:
        head, adapter = text[:cut], text[cut + 1 :] if cut < len(text) else None
        yield _Reading(head, adapter=adapter)
        if found := _BITS.fullmatch(head):
            yield _Reading(**found.groupdict(), adapter=adapter)


def _read(text: str) -> _Reading:
    """The reading that counts; where none is a model, the one with the shortest name."""
    readings = list(_readings(text))
    models = [reading for reading in readings if reading.is_model]
    if not models:
        return min(readings, key=lambda reading: len(reading.name))
    return max(models, key=lambda r: (family_for_alias(r.name) is not None, len(r.name)))


def _named(model: object, check: _Check) -> dict[str, Any]:
    """What the name alone says."""
    ref = getattr(model, "ref", model)
    if isinstance(ref, ModelRef):
        return {key: getattr(ref, key) for key in ("name", *_SAID)}
    if not isinstance(model, str | Path):
        what = f"{model!r} is no model's name ({type(model).__name__})"
        raise InputProblems([Problem("model", what, f"Give text, such as {FORM}, or a folder.")])
    text = str(model)
    reading = _read(text)
    if reading == _Reading(text):
        return {"name": locate(text).name} | dict.fromkeys(_SAID)
    name = check.name(reading.name)
    parts = (reading.bits, reading.threshold, reading.adapter)
    return {"name": name} | check.said(*parts, place=" after the @")


# --- what may be said in a name or besides it ---------------------------------------------------

_SAID = ("bits", "int8_threshold", "adapter")


@dataclass
class _Check:
    """Makes values of what was said, and keeps all that is wrong with it."""

    where: str
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.where, what, remedy))

    def said(
        self, bits: object, threshold: object, adapter: object, place: str = ""
    ) -> dict[str, Any]:
        return {
            "bits": None if bits is None else self._bits(bits, place),
            "int8_threshold": None if threshold is None else self._threshold(threshold),
            "adapter": None if adapter is None else self._adapter(str(adapter)),
        }

    def agree(self, named: dict[str, Any], given: dict[str, Any]) -> None:
        """The name and the arguments say the same, as far as both say something."""
        for key in _SAID:
            one, other = named[key], given[key]
            if None not in (one, other) and _whole(one) != _whole(other):
                what = f"{key.replace('_', ' ')} is said twice: {one} in the name, and {other}"
                self.wrong(what, "Leave one of them out.")

    def name(self, name: str) -> str:
        try:
            return locate(name).name
        except InputProblems as error:
            self.problems += error.problems
        except LensbenchError as error:
            self.wrong(str(error).rstrip("."), f"Write {FORM}.")
        return name

    def _bits(self, value: object, place: str) -> Bits | None:
        known = [str(number) for number in get_args(Bits)]
        if str(value) in known:
            return cast(Bits, int(str(value)))
        remedy = f"Give one of {', '.join(known)}: {FORM}."
        self.wrong(f"{value!r}{place} is no number of bits", remedy)
        return None

    def _threshold(self, value: object) -> float | None:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if 0 <= number < math.inf:
            return number
        self.wrong(f"{value!r} is no outlier threshold", f"Give 0 (no outliers) or more: {FORM}.")
        return None

    def _adapter(self, text: str) -> Path:
        remedy = "Give the folder that `lensbench train` made: NAME+FOLDER."
        if not text.strip():
            self.wrong("no adapter stands after the +", remedy)
        elif not _is_folder(text):
            self.wrong(f"there is no folder {text}", remedy)
        elif not (Path(text).expanduser() / ADAPTER_CONFIG).is_file():
            self.wrong(f"{text} holds no adapter (no {ADAPTER_CONFIG})", remedy)
        return Path(text).expanduser()


def _whole(value: object) -> object:
    return value.resolve() if isinstance(value, Path) else value


def _is_folder(text: str) -> bool:
    return bool(text.strip()) and Path(text).expanduser().is_dir()


def _number(value: float | None) -> str:
    """A number that reads back as itself, without the sign that begins an adapter."""
    return repr(value).removesuffix(".0").replace("+", "")


def _adapter_facts(folder: Path) -> dict[str, str]:
    files = {"adapter_sha256": ADAPTER_WEIGHTS, "adapter_config_sha256": ADAPTER_CONFIG}
    missing = [name for name in files.values() if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} holds no {missing[0]}. Save the adapter as safetensors (a pickle can run "
            "code, so it is never read), or give another folder."
        )
    own = {key: sha256_once(folder / name) for key, name in files.items()}
    return {"adapter": folder.resolve().name, **own}
