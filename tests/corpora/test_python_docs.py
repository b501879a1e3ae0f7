"""Docstrings of sources, against Python's own walk over every node."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensbench.corpora.python_docs import docstrings

NESTED = """"module"
if 1:
    class A:
        "A"
        async def a(self):
            "a"
else:
    def b(): "b"
try:
    def c(): "c"
except ValueError:
    def d(): "d"
else:
    def e(): "e"
finally:
    def f(): "f"
match 1:
    case 1:
        with x, y:
            for i in z:
                def g(key=lambda: (yield)):
                    "g"
                    while 1:
                        def h(): "h"
                    else:
                        def i(): "i"
"""


def of_every_node(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def test_a_docstring_is_found_wherever_a_definition_may_stand() -> None:
    tree = ast.parse(NESTED)
    assert sorted(docstrings(tree)) == sorted(["module", "A", *"abcdefghi"])
    assert list(docstrings(tree)) == list(of_every_node(tree))


@pytest.mark.parametrize("name", ["typing", "ast", "dataclasses", "subprocess", "enum", "locale"])
def test_the_library_gives_what_a_walk_over_every_node_gives(name: str) -> None:
    source = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_bytes()
    tree = ast.parse(source)
    assert list(docstrings(tree)) == list(of_every_node(tree))
