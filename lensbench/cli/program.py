"""The program: its verbs, each read from its file only when it is called, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import (
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from lensbench.errors import InputProblems, LensbenchError, Problem
from lensbench.version import __version__

if TYPE_CHECKING:
    from cyclopts.argument import Argument

# Folder of `cli`: the panel's title, and its verbs. A verb that is a folder holds verbs itself.
PANELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "models": ("Models", ("models", "pull", "check", "doctor", "pico")),
    "text": ("Text", ("tokens", "embed", "classify", "sample", "walk")),
    "lens": ("Lens", ("lens", "fit", "cache", "plan", "run", "report", "import_")),
    "attention": ("Attention", ("attention",)),
    "compare": ("Comparisons", ("diff", "correlate")),
    "quantized": (
        "Second path: 8 bits, retrieval, adapters",
        ("infer", "chat", "train", "eval", "rag", "data", "adapters"),
    ),
}
FOLDERS: dict[str, tuple[str, ...]] = {
    "pico": ("train", "analyse"),
    "rag": ("build", "add", "query", "info", "check"),
    "data": ("merge", "to_jsonl", "check", "split", "docstrings", "shipped"),
    "adapters": ("show", "diff", "merge"),
}
# What such a verb does when none of those that it holds is named: a file beside theirs.
ALONE = {"pico": "ask"}
HELP = """At which depth does a language model know what it is about to say?

Start with: lensbench pull smollm2-135m, then
lensbench lens smollm2-135m "The capital of Germany is".

Exit status: 0 ok, 1 some items failed (or a gate did), 2 bad usage or input, 130 interrupted.
"""


class UsageError(LensbenchError):
    """The command line itself is wrong."""


def called(arguments: Sequence[str]) -> int:
    """Do what the command line says; returns the exit status.

    Raises UsageError and InputProblems for a wrong command line, and what the verb raises. What is
    wrong with an argument is said by the option's name, however late it was found.
    """
    app = program()
    try:
        verb, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
        for given in (*bound.args, *bound.kwargs.values()):
            _require_here(getattr(given, "device", None))
        return verb(*bound.args, **bound.kwargs) or 0
    except CycloptsError as error:
        problems = _found(error)
        if not problems:
            raise _refusal(error) from None
    except InputProblems as error:
        problems = error.problems
    names = _options(app, arguments)
    raise InputProblems([_named(problem, names) for problem in problems])


def _require_here(device: str | None) -> None:
    """Before a verb reads its libraries, let alone a model. Raises as `Placement.of`."""
    if device not in (None, "cpu"):
        from lensbench.checkpoints.placement import Placement

        Placement.of(device)


def program() -> App:
    """Every verb by its name."""
    app = _app("lensbench", HELP, version=f"lensbench {__version__}")
    for number, (folder, (title, verbs)) in enumerate(PANELS.items()):
        group = Group(title, sort_key=number)
        for order, verb in enumerate(verbs):
            module = f"lensbench.cli.{folder}.{verb}"
            if verb in FOLDERS:
                app.command(_folder(module, verb, group=group, sort_key=order))
            else:
                _add(app, module, verb, group=group, sort_key=order)
    return app


def _app(name: str, page: str, **more: Any) -> App:
    return App(
        name=name,
        help=page,
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=_default),
        group_commands=Group("Verbs"),
        result_action="return_value",
        **more,
    )


def _folder(module: str, name: str, **place: Any) -> App:
    """A verb that holds verbs."""
    page, examples = _pages(module)
    app = _app(name, page, help_epilogue=examples, **place)
    if name in ALONE:
        app.default(_alone(f"{module}.{ALONE[name]}", ALONE[name]))
    for order, verb in enumerate(FOLDERS[name]):
        _add(app, f"{module}.{verb}", verb, sort_key=order)
    return app


def _alone(module: str, name: str) -> Callable[[], int]:
    """A function that reads its file when it is called."""

    def call() -> int:
        return int(getattr(importlib.import_module(module), name)())

    return call


def _add(app: App, module: str, verb: str, **place: Any) -> None:
    page, examples = _pages(module)
    name = verb.rstrip("_").replace("_", "-")  # `import` is no name for a function
    app.command(f"{module}:{verb}", name=name, help=page, help_epilogue=examples, **place)


def _pages(module: str) -> tuple[str, str]:
    """The docstring of a file, up to its examples and from there on, without importing it.

    Paragraphs are joined to lines, so that they fill a terminal of any width.
    """
    spec = importlib.util.find_spec(module)
    source = spec.loader.get_source(module) if spec and spec.loader else ""  # type: ignore[attr-defined]
    page, heading, examples = inspect.cleandoc(source.split('"""')[1]).partition("\nExample")
    paragraphs = [" ".join(paragraph.split()) for paragraph in page.split("\n\n")]
    lines = [line[2:] for line in examples.split("\n") if line.strip()]
    return "\n\n".join(paragraphs), "\n".join([f"{heading.strip()}{examples[:2].strip()}", *lines])


def _default(value: object) -> str | None:
    """A default as help shows it: what is off, empty or left to a rule says so in words."""
    if value is None or value is False or value in ((), ""):
        return None
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- what is wrong with a command line ----------------------------------------------------------


def _refusal(error: CycloptsError) -> UsageError:
    said = str(error)
    if (token := _no_verb(error)) is not None:
        said = _unknown_verb(error, token)
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        given = {*error.argument.names} & {*(error.root_input_tokens or ())}
        said = f"{_shown(error.argument)} {'stands without its value' if given else 'is missing'}."
    elif isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        said = f"Nothing takes {words!r}. Text of several words goes in quotes."
    chain = " ".join(("lensbench", *(error.command_chain or ())))
    return UsageError(f"{said} See {chain} --help.")


def _no_verb(error: CycloptsError) -> str | None:
    """What stands where a verb should, if that is the error; after a verb of `ALONE` too."""
    if isinstance(error, UnknownCommandError):
        return (error.unused_tokens or [""])[0]
    chain = error.command_chain or ("",)
    if chain[-1] not in ALONE or not isinstance(error, UnusedCliTokensError | UnknownOptionError):
        return None
    token = [*(error.root_input_tokens or ())[len(chain) :], "-"][0]
    return None if token.startswith("-") else token


def _unknown_verb(error: CycloptsError, token: str) -> str:
    from lensbench.spec import nearest

    names = [name for name in error.app or () if not name.startswith("-")]
    return f"there is no verb {token!r}. {nearest(token, names)}"


def _found(error: CycloptsError) -> list[Problem]:
    """What a spec has found wrong with its fields."""
    if not isinstance(error, ValidationError) or error.__cause__ is None:
        return []
    import pydantic

    if not isinstance(error.__cause__, pydantic.ValidationError):
        return []
    causes = [item.get("ctx", {}).get("error") for item in error.__cause__.errors()]
    found = [cause.problems for cause in causes if isinstance(cause, InputProblems)]
    return [problem for problems in found for problem in problems]


def _options(app: App, arguments: Sequence[str]) -> dict[str, str]:
    """How a user writes the arguments of a verb, by their names in Python.

    Of two fields of one name, in a spec and in a spec within it, the outer one is meant.
    """
    _, path, _ = app.parse_commands(arguments)
    every = sorted(path[-1].assemble_argument_collection(), key=lambda one: -len(one.keys))
    own = (one for one in every if one.name != "*")  # a spec, whose fields are the options
    return {(one.keys or (one.field_info.name,))[-1]: _shown(one) for one in own}


def _named(problem: Problem, names: dict[str, str]) -> Problem:
    """A problem of fields as one of options: also where the words speak of `another`."""
    words = {key: getattr(problem, key) for key in ("what", "remedy")}
    words["what"] = re.sub("^it is '(.*)'$", r"it is \1", words["what"])  # all is text there
    for field, option in names.items():
        words = {key: text.replace(f"`{field}`", option) for key, text in words.items()}
    return dataclasses.replace(problem, where=names.get(problem.where, problem.where), **words)


def _shown(argument: Argument) -> str:
    """An argument as a user writes it: by its place in capitals, else its option."""
    return argument.name.lstrip("-").upper() if argument.index is not None else argument.name
