"""The layout as a test: arrows point down only, and some things are nowhere in the package."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lensbench

ROOT = Path(lensbench.__file__).parent
TESTS = Path(__file__).parent
MODULES = {
    ".".join(("lensbench", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NODES = {name: [*ast.walk(tree)] for name, tree in TREES.items()}  # walked once for all tests

BOTTOM = {"errors", "files", "json_text", "escape", "progress", "spec", "version", "checkout"}
BOTTOM |= {"threads", "context", "again", "device"}
# The rooms from the ground up: each may import those before it, and nothing beside or above it.
ROOMS = (
    "checkpoints",
    "prompts",
    "records",
    "cluster",
    "stats",
    "quantized",
    "models",
    "costs",
    "corpora",
    "tokenisation",
    "residuals",
    "embeddings",
    "classification",
    "lens",
    "sampling",
    "fitting",
    "attention",
    "compare",
    "pico",
    "studies",
    "report",
    "walkthrough",
)
TOP = {"cli", ""}  # users of the rest: the verbs, and the public names
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "progress": set(),
    "checkout": set(),
    "json_text": set(),
    "threads": set(),
    "context": set(),
    "again": {"errors", "context"},
    "files": {"errors"},
    "escape": {"errors"},
    "device": {"errors"},
    "spec": {"errors", "device"},
    **{room: BOTTOM | set(ROOMS[:number]) for number, room in enumerate(ROOMS)},
}
# Rooms that need less than lies below them.
MAY_IMPORT["report"] = BOTTOM | {"records", "stats"}  # reports are rebuilt without a model
MAY_IMPORT["checkpoints"] = BOTTOM
MAY_IMPORT["prompts"] = BOTTOM
MAY_IMPORT["models"] = BOTTOM | {"prompts", "checkpoints", "quantized"}  # for bits and adapters
MAY_IMPORT["corpora"] = BOTTOM | {"prompts", "checkpoints", "records", "models"}
MAY_IMPORT["tokenisation"] = BOTTOM | {"prompts", "checkpoints", "records", "stats"}
MAY_IMPORT["sampling"] = BOTTOM | {"prompts", "checkpoints", "quantized", "models", "records"}
MAY_IMPORT["sampling"] |= {"costs"}
MAY_IMPORT["residuals"] = BOTTOM | {"prompts", "records", "models"}
MAY_IMPORT["costs"] = BOTTOM | {"checkpoints", "records", "cluster", "quantized", "models"}

# The same within a room that has rooms or shelves: those of one line do not know each other.
WITHIN: dict[str, tuple[set[str], ...]] = {
    "quantized": (
        {"precision", "style", "spec"},
        {"peaks"},
        {"data", "rag", "adapters", "machine"},
        {"loading"},
        {"generation"},
        {"training"},
        {"evaluation"},
    ),
    "compare": (
        {"forms", "similarity"},
        {"permutation", "layer_choice"},
        {"correlation", "diff"},
    ),
    "report": (
        {"kit"},
        {"section", "manifest"},
        {"lens"},
        {"fit", "transfer", "diff", "correlation", "inference"}
        | {"training", "evaluation", "placement", "attention", "pretraining", "tokens"}
        | {"embeddings", "senses", "classification", "sampling", "walk"},
        {"lineage"},
        {"sections"},
        {"build"},
    ),
}
# What is not so yet. Each list may only shrink: an entry that no longer holds fails.
YET_SIDEWAYS: set[tuple[str, str]] = set()
YET_LONG: set[str] = set()
YET_CROWDED: set[str] = set()

MAX_LINES = 60  # of a function
MAX_FILE_LINES = 400
MAX_FILES = 14  # in one folder
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "print", "compile", "__import__"}


def package_of(module: str) -> str:
    """lensbench.report.build -> report; lensbench itself -> ''."""
    return (*module.split("."), "")[1]


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every module of lensbench that `module` imports anywhere, with the line."""
    here = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in NODES[module]:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(here.split(".")[: len(here.split(".")) - node.level + 1])
            names = [f"{base}.{node.module}" if node.module else base]
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            submodules = [f"{whole}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else whole for name in submodules]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "lensbench")


def everywhere(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind in the package, with where it stands."""
    for module, nodes in NODES.items():
        for node in nodes:
            if isinstance(node, kind):
                yield f"{module}:{getattr(node, 'lineno', 0)}", node


def test_every_package_has_its_place() -> None:
    assert {package_of(module) for module in MODULES} <= set(MAY_IMPORT) | TOP


def test_contributing_lists_the_rooms_in_their_order() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE) == ["cli", *reversed(ROOMS)]


def test_arrows_point_down_only() -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if package_of(module) not in TOP
        for name, line in imports(module)
        if package_of(name) not in MAY_IMPORT[package_of(module)] | {package_of(module)}
    ]
    assert wrong == []


def test_the_imports_are_really_seen() -> None:
    assert ("lensbench.lens.logit", "lensbench.models.sites") in {
        (module, name) for module in MODULES for name, _ in imports(module)
    }


def test_the_order_has_no_circle() -> None:
    placed: set[str] = set()
    rest = dict(MAY_IMPORT)
    while rest:
        ready = {p for p, below in rest.items() if below <= placed}
        assert ready, f"a circle among {sorted(rest)}"
        placed |= ready
        rest = {p: below for p, below in rest.items() if p not in ready}


def test_within_a_room_arrows_point_down_too() -> None:
    found = {
        (f"{room}.{part}", f"{room}.{other}")
        for room, rows in WITHIN.items()
        for part, other in edges_within(room)
        if row_of(other, rows) >= row_of(part, rows)
    }
    assert found == YET_SIDEWAYS


def edges_within(room: str) -> set[tuple[str, str]]:
    """Which part of a room (a file or a folder in it) imports which other one."""
    parts = {m: m.split(".")[2] for m in MODULES if m.startswith(f"lensbench.{room}.")}
    return {
        (parts[module], parts[name])
        for module in parts
        for name, _ in imports(module)
        if name in parts and parts[name] != parts[module]
    }


def row_of(part: str, rows: tuple[set[str], ...]) -> int:
    return next(number for number, row in enumerate(rows) if part in row)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Whoever imports nothing but what is placed is placed next; a circle is what remains."""
    rest = {m: {name for name, _ in imports(m) if name in MODULES} - {m} for m in MODULES}
    while ready := {module for module, below in rest.items() if not below & set(rest)}:
        rest = {module: below for module, below in rest.items() if module not in ready}
    assert rest == {}


HEAVY = ("torch", "transformers", "transformer_lens")
LIGHT = (
    ["lensbench"]
    + [name for name in MODULES if package_of(name) in BOTTOM | {"records", "stats", "report"}]
    + ["lensbench.prompts.prompt", "lensbench.prompts.sets", "lensbench.lens.milestones"]
    + ["lensbench.checkpoints.ref"]
    + ["lensbench.cli", "lensbench.studies.specs.lens"]
)


def test_records_reports_and_prompt_sets_need_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    found = set(sys.modules) & {set(HEAVY)!r}\n"
        "    if found: sys.exit(f'{name} imports {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *LIGHT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", lensbench.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(lensbench, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module("lensbench").no_such_name  # noqa: B018


def test_no_module_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [name for name in MODULES if vague & set(name.split("."))] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [module for module, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []


def test_no_handler_swallows_everything() -> None:
    wrong = [where for where, node in everywhere(ast.ExceptHandler) if is_blanket(node)]
    assert wrong == []


def is_blanket(handler: ast.AST) -> bool:
    """Catches everything and does not raise it again."""
    assert isinstance(handler, ast.ExceptHandler)
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {"BaseException" if kind is None else ast.unparse(kind) for kind in kinds}
    raises_again = any(
        isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler)
    )
    return bool(names & {"Exception", "BaseException"}) and not raises_again


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("except:\n  pass", True),
        ("except Exception:\n  x = 1", True),
        ("except (OSError, Exception):\n  pass", True),
        ("except BaseException:\n  raise", False),
        ("except OSError:\n  pass", False),
    ],
)
def test_a_blanket_handler_is_recognised(handler: str, expected: bool) -> None:
    (statement,) = ast.parse(f"try:\n  pass\n{handler}").body
    assert isinstance(statement, ast.Try)
    assert is_blanket(statement.handlers[0]) is expected


def test_functions_are_short() -> None:
    functions = [*everywhere(ast.FunctionDef), *everywhere(ast.AsyncFunctionDef)]
    long = [
        f"{where} {node.name}: {length} lines"  # type: ignore[attr-defined]
        for where, node in functions
        if (length := body_lines(node)) >= MAX_LINES
    ]
    assert long == []


def test_most_functions_are_very_short() -> None:
    functions = [*everywhere(ast.FunctionDef), *everywhere(ast.AsyncFunctionDef)]
    lengths = sorted(body_lines(node) for _, node in functions)
    assert lengths[len(lengths) // 2] < 15
    assert lengths[9 * len(lengths) // 10] < 40


def test_files_are_short_and_folders_are_not_crowded() -> None:
    lengths = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in MODULES.items()}
    assert {m for m, length in lengths.items() if length > MAX_FILE_LINES} == YET_LONG
    files = Counter(path.relative_to(ROOT).parent.as_posix() for path in MODULES.values())
    assert {folder for folder, number in files.items() if number > MAX_FILES} == YET_CROWDED


def test_no_module_of_tests_imports_another() -> None:
    """What two of them need stands in the harness, and the harness needs none of them."""
    wrong = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported_names(node)
        for last in (name, *(alias.name for alias in node.names))
        if name.split(".")[0] == "tests" and last.split(".")[-1].startswith(("test_", "conftest"))
    ]
    assert wrong == []


def body_lines(node: ast.AST) -> int:
    """Lines of a function from its first statement on: neither signature nor docstring count."""
    body = node.body  # type: ignore[attr-defined]
    documented = ast.get_docstring(node) is not None and len(body) > 1  # type: ignore[arg-type]
    first = body[1] if documented else body[0]
    return int(body[-1].end_lineno) - int(first.lineno) + 1


def test_nothing_is_printed_evaluated_or_unpickled() -> None:
    calls = [
        f"{where} {ast.unparse(node.func)}"
        for where, node in everywhere(ast.Call)
        if isinstance(node, ast.Call) and is_forbidden(node)
    ]
    imported = [
        f"{where} imports {name}"
        for kind in (ast.Import, ast.ImportFrom)
        for where, node in everywhere(kind)
        for name in imported_names(node)
        if name.split(".")[0] in FORBIDDEN_IMPORTS
    ]
    assert calls + imported == []


def is_forbidden(call: ast.Call) -> bool:
    """torch.load of anything but plain tensors unpickles."""
    name, given = ast.unparse(call.func), [ast.unparse(keyword) for keyword in call.keywords]
    unpickles = name == "torch.load" and "weights_only=True" not in given
    return name in FORBIDDEN_CALLS or unpickles


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names]  # type: ignore[attr-defined]


def test_logits_are_made_in_one_module() -> None:
    """The head matrix meets a vector in one place."""
    products = [
        where
        for where, node in everywhere(ast.BinOp)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
        if "W_U" in ast.unparse(node)
    ]
    places = {where.split(":")[0] for where in products}
    assert places == {"lensbench.models.readout"}
