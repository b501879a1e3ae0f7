"""The errors a user meets: every message says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class LensbenchError(Exception):
    """Base of every error that lensbench raises on purpose; the CLI prints it and exits with 2."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a user's input.

    `where` names the file and the row (or the setting), `what` says what is wrong and `remedy`
    what to do. `prompt_id` is set when the problem belongs to one prompt and the rest can go on.
    """

    where: str
    what: str
    remedy: str
    prompt_id: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}".rstrip()


class InputProblems(LensbenchError, ValueError):
    """All problems of one input, collected and raised once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        n = len(self.problems)
        super().__init__(f"{n} problem{'s' if n != 1 else ''} with the input:\n{lines}")

    def __reduce__(self) -> tuple[type[InputProblems], tuple[list[Problem]]]:
        return type(self), (self.problems,)  # from another process as it was raised there


class Collected:
    """What is wrong with several inputs: each is read inside `with`, and `raise_any` at the end."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputProblems):
            self.problems += error.problems
        return isinstance(error, InputProblems)

    def raise_any(self) -> None:
        """Raise InputProblems with all that was found."""
        if self.problems:
            raise InputProblems(self.problems)


class ModelError(LensbenchError):
    """A model cannot be found, fetched, loaded or trusted."""


class GateError(LensbenchError):
    """The lens does not reproduce the model, so nothing may be reported from it."""


class RecordsError(LensbenchError):
    """A run folder cannot be used: other settings, newer schema, damaged or locked."""


class MissingExtraError(LensbenchError):
    """An optional part is not installed; the message names the extra that adds it."""

    def __init__(self, package: str, extra: str) -> None:
        self._said = package, extra
        super().__init__(
            f"{package} is not installed. It belongs to the optional part '{extra}'; "
            f'add it with: pip install "lensbench[{extra}]"'
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), self._said


@contextmanager
def packages_of(extra: str, *names: str) -> Iterator[None]:
    """MissingExtraError where one of these packages of an optional part is not there to import."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in names:
            raise
        raise MissingExtraError(error.name, extra) from error


class refused_by_library:  # noqa: N801  read as what it does: with refused_by_library(...)
    """What another library raises inside becomes a ModelError: `what`, its words and `remedy`."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, LensbenchError):
            return
        if isinstance(error, _of_libraries()) or type(error) is Exception:
            why = f"{type(error).__name__}: {first_line(error).split('. ')[0].rstrip('.')}"
            raise ModelError(f"{self.what} ({why}). {self.remedy}") from error


def _of_libraries() -> tuple[type[Exception], ...]:
    """What other libraries raise at a model that they cannot run; tokenizers' have no kind."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        StrictDataclassError,
        TypeError,
        ValueError,
    )


def first_line(error: BaseException) -> str:
    """What another library's error says, by its first line; some print pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
