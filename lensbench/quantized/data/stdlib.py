"""What the installed standard library says about itself: read from its sources, never imported."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensbench.errors import InputProblems, Problem

# Modules written in Python, part of every installation, there for years and there to stay.
_NAMES = """
    abc argparse ast asyncio.base_events asyncio.events asyncio.locks asyncio.queues asyncio.runners
    asyncio.streams asyncio.tasks base64 bdb bisect bz2 calendar cmd code codecs
    codeop collections colorsys compileall concurrent.futures.process concurrent.futures.thread
    configparser contextlib copy csv dataclasses decimal difflib dis doctest email.charset
    email.generator email.header email.message email.parser email.policy email.utils enum filecmp
    fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib
    heapq hmac html html.parser http.client http.cookiejar http.cookies http.server imaplib
    importlib.resources importlib.util inspect ipaddress json json.decoder json.encoder linecache
    locale logging logging.config logging.handlers lzma mailbox mimetypes modulefinder
    multiprocessing.connection multiprocessing.managers multiprocessing.pool netrc numbers operator
    optparse os os.path pickle pickletools pkgutil platform plistlib poplib pprint profile pstats
    py_compile pyclbr pydoc queue quopri random reprlib rlcompleter runpy sched secrets selectors
    shelve shlex shutil site smtplib socket socketserver ssl statistics string stringprep
    subprocess symtable tarfile tempfile textwrap threading timeit tokenize trace traceback
    tracemalloc types typing unittest.case unittest.loader unittest.mock unittest.runner
    unittest.suite urllib.error urllib.parse urllib.request urllib.robotparser uuid warnings wave
    weakref webbrowser wsgiref.handlers wsgiref.headers wsgiref.util xml.dom.minidom
    xml.etree.ElementTree xml.sax.handler xml.sax.saxutils xmlrpc.client xmlrpc.server zipapp
    zipfile
"""
MODULES = tuple(_NAMES.split())
_FILES = {"os.path": "posixpath", "decimal": "_pydecimal"}  # modules that others stand for

Function = ast.FunctionDef | ast.AsyncFunctionDef
Kind = Literal["module", "function", "class", "method", "property"]

_LONGEST = 420  # characters of a text
_SHORTEST = 18
_ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`~?([^`]+)`")  # :meth:`close` and the like
_CALL = re.compile(
    r"^[\w.]+\(.*\)\s*([-=]>.*)?$", re.DOTALL
)  # a paragraph that is only a signature
_NO_PROSE = re.compile(r">>>|^\s|^[-*+|=@#:]|\.\. |XXX|TODO|\t|^\w+:\s| = \S*\(", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """One public thing with a docstring. `arguments` is None where it is not called."""

    kind: Kind
    module: str
    qualname: str  # within the module; "" for the module itself
    text: str  # the first paragraph(s) of its docstring, on one line
    arguments: ast.arguments | None = None

    @property
    def name(self) -> str:
        """The full dotted name."""
        return f"{self.module}.{self.qualname}" if self.qualname else self.module

    @property
    def signature(self) -> str:
        """The name with its arguments, as it is called."""
        if self.arguments is None:
            return self.name
        return f"{self.name}({ast.unparse(self.arguments)})"


def items() -> list[Item]:
    """Everything public with a docstring in prose, module by module, in the order of the source.

    Raises InputProblems when this Python came without the sources of its standard library.
    """
    return [
        item for module in MODULES if (path := _source(module)) for item in _items(module, path)
    ]


def _source(module: str) -> Path | None:
    """The file of a module; None where this version of Python has none of that name."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    if not (stdlib / "textwrap.py").is_file():
        what, remedy = "it holds no sources", "Use a Python that was installed with its sources."
        raise InputProblems([Problem(str(stdlib), what, remedy)])
    place = stdlib.joinpath(*_FILES.get(module, module).split("."))
    found = (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())
    return next(found, None)


def _items(module: str, path: Path) -> Iterator[Item]:
    tree = ast.parse(path.read_bytes())
    if text := prose(ast.get_docstring(tree)):
        yield Item("module", module, "", text)
    public = _declared(tree)
    seen: set[str] = set()
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef):
            continue
        if node.name in seen or not _is_public(node.name, public):
            continue
        seen.add(node.name)
        if isinstance(node, ast.ClassDef):
            yield from _class_items(module, node)
        elif text := prose(ast.get_docstring(node)):
            yield Item("function", module, node.name, text, node.args)


def _class_items(module: str, node: ast.ClassDef) -> Iterator[Item]:
    """A class, then its methods."""
    methods = [child for child in node.body if isinstance(child, Function)]
    makers = [_without_self(method) for method in methods if method.name == "__init__"]
    if text := prose(ast.get_docstring(node)):
        yield Item("class", module, node.name, text, makers[0] if makers else None)
    seen: set[str] = set()
    for method in methods:
        text = prose(ast.get_docstring(method))
        if not text or method.name in seen or not _is_public(method.name):
            continue
        seen.add(method.name)
        qualname = f"{node.name}.{method.name}"
        if _decorated(method) & {"property", "cached_property"}:
            yield Item("property", module, qualname, text)
        elif _decorated(method) <= {"classmethod", "staticmethod", "abstractmethod"}:
            yield Item("method", module, qualname, text, _without_self(method))


def _decorated(node: Function) -> set[str]:
    """The last words of its decorators: `abc.abstractmethod` is abstractmethod."""
    return {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}


def _without_self(node: Function) -> ast.arguments:
    arguments = node.args
    if "staticmethod" in _decorated(node):
        return arguments
    first = "posonlyargs" if arguments.posonlyargs else "args"
    fields = {name: getattr(arguments, name) for name in arguments._fields}
    return ast.arguments(**fields | {first: fields[first][1:]})


def _is_public(name: str, declared: set[str] | None = None) -> bool:
    return not name.startswith("_") and (declared is None or name in declared)


def _declared(tree: ast.Module) -> set[str] | None:
    """The names put into `__all__` at the top level, or None where the module has no such list."""
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=value):
                pass
            case ast.AugAssign(target=ast.Name("__all__"), value=value):
                pass
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("__all__"), "extend"), [value])):
                pass
            case _:
                continue
        entries = value.elts if isinstance(value, ast.List | ast.Tuple) else []
        found |= {str(entry.value) for entry in entries if isinstance(entry, ast.Constant)}
    return found or None


def prose(docstring: str | None) -> str:
    """The first one or two paragraphs of running text, on one line; "" where there are none.

    Examples, lists, tables, headings and signatures are no running text.
    """
    text = ""
    for paragraph in inspect.cleandoc(docstring or "").split("\n\n"):
        if _CALL.match(paragraph) and not text:
            continue
        words = _ROLE.sub(r"`\1`", " ".join(paragraph.split())).replace("``", "`")
        longer = f"{text} {words}".strip()
        if _NO_PROSE.search(paragraph) or words.endswith(":") or len(longer) > _LONGEST:
            break
        text = longer if longer.endswith((".", "!", "?")) else f"{longer}."
        if len(text) > _LONGEST / 3:
            break
    return text if len(text) >= _SHORTEST and text.isascii() else ""
