"""What an installation says about itself: prose in English that needs no download.

The docstrings of the standard library, the topics of `help()`, and the descriptions of the packages
that lensbench stands on. Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sysconfig
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from lensbench.errors import InputProblems, Problem

SHORTEST = 200  # characters
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_STATEMENTS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields that hold some
_NOT_READ = {"site-packages", "test", "tests", "__pycache__", "idlelib"}
_TOPICS = "pydoc_data/topics.py"  # one dictionary: the language reference, topic by topic


def python_docs() -> Iterator[tuple[str, str]]:
    """(where it stands, text) of all that is long enough to be read from.

    Raises InputProblems when this Python came without the sources of its standard library.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    if not (stdlib / "textwrap.py").is_file():
        what, remedy = "it holds no sources", "Use a Python that was installed with its sources."
        raise InputProblems([Problem(str(stdlib), what, remedy)])
    texts = chain(_of_library(stdlib), _of_packages())
    yield from ((where, text) for where, text in texts if len(text) >= SHORTEST)


def _of_library(stdlib: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(stdlib.rglob("*.py")):
        name = path.relative_to(stdlib)
        if _NOT_READ & {*name.parts}:
            continue
        tree = ast.parse(path.read_bytes())
        texts = _topics(tree) if name.as_posix() == _TOPICS else docstrings(tree)
        yield from ((name.as_posix(), text) for text in texts)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Those of a module, its classes and functions, the outer ones before those within."""
    todo: deque[ast.AST] = deque([tree])
    while todo:  # as ast.walk, past all expressions: they hold no definition
        node = todo.popleft()
        if isinstance(node, _WITH_DOCSTRING) and (text := ast.get_docstring(node)):
            yield text
        for field in _STATEMENTS:
            todo.extend(getattr(node, field, ()))


def _topics(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).values()


def _of_packages() -> Iterator[tuple[str, str]]:
    """The long description of each package that lensbench requires and this machine has."""
    for requirement in sorted(importlib.metadata.requires("lensbench") or []):
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        try:
            about = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:  # an extra, or not for this machine
            continue
        yield f"description of {name}", str(about.json.get("description", ""))
