"""Questions and answers about the standard library, made of its docstrings and signatures.

The same Python gives the same pairs, byte for byte: sources are read in a fixed order, and a
question's wording is chosen by the hash of its id. The texts are the Python Software Foundation's.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from lensbench.files import sha256_of, write_text
from lensbench.quantized.data.near import near_pairs, pair_text
from lensbench.quantized.data.pairs import Pair, write_jsonl
from lensbench.quantized.data.spec import QuestionKind
from lensbench.quantized.data.stdlib import Item, items

# What is asked: what a thing does, which thing does that, how it is called, one of its defaults,
# methods of a class, functions of a module.
KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)
_MANY = 16  # names, the most that an answer lists
_WHAT = {
    "module": (
        "What is Python's module `{name}` for?",
        "In one or two sentences, describe the Python module `{name}`.",
        "What does the standard library offer in `{name}`?",
    ),
    "class": (
        "What is the Python class `{name}`?",
        "Describe the class `{name}` of Python's standard library.",
        "What is an object of type `{name}` in Python?",
    ),
    "property": (
        "What does the attribute `{name}` hold in Python?",
        "Explain the property `{name}` of Python's standard library.",
    ),
    "function": (
        "What does `{signature}` do in Python?",
        "Explain Python's function `{signature}`.",
        "What happens when I call `{signature}` in Python?",
        "Say briefly what `{signature}` is for.",
    ),
}
_WHAT["method"] = tuple(text.replace("function", "method") for text in _WHAT["function"])
_WHICH = (
    'Which {kind} of Python\'s module `{module}` is described like this? "{text}"',
    'Name the {kind} in the Python module `{module}` that fits this description: "{text}"',
    'In Python\'s `{module}` I am looking for the {kind} that does this: "{text}"',
)
_ARGUMENTS = (
    "Which arguments does Python's `{name}` take?",
    "How do I call `{name}` in Python?",
    "List the parameters of `{name}` and their defaults.",
)
_DEFAULT = (
    "What is the default of the argument `{argument}` of Python's `{name}`?",
    "If I leave out `{argument}` when I call `{name}`, which value does Python use?",
)
_METHODS = (
    "Name some methods of the Python class `{name}`.",
    "What can I call on an object of the Python class `{name}`, for example?",
)
_FUNCTIONS = (
    "Name some functions of the Python module `{name}`.",
    "Which functions does Python's module `{name}` offer, for example?",
)


def docstring_pairs(kinds: Sequence[str] = KINDS) -> list[Pair]:
    """Pairs about the installed Python's standard library; their group is the module.

    Ids are `py:<dotted name>:<kind>`, such as `py:os.path.join:what`, with one of KINDS (a default
    also names its argument: `default-limit`). No two pairs are near duplicates of each other.

    Raises InputProblems when this Python came without the sources of its standard library.
    """
    found = items()
    descriptions = Counter((item.module, item.text) for item in found)
    pairs = [pair for item in found for pair in _pairs(item, descriptions)]
    pairs += [*_members(found, "class", "method", "methods", _METHODS)]
    pairs += [*_members(found, "module", "function", "functions", _FUNCTIONS)]
    return [pair for pair in _apart(pairs) if _kind(pair) in kinds]


def write_docstrings(out: Path, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """Write the pairs as .jsonl, and a `.about.json` beside them; returns what that says."""
    pairs = docstring_pairs(kinds)
    write_jsonl(out, pairs)
    facts = provenance(sha256_of(out), pairs)
    write_text(out.with_suffix(".about.json"), json.dumps(facts, indent=2) + "\n")
    return facts


def provenance(sha256: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a file of these pairs is: source, licence, Python version, hash of its bytes."""
    return {
        "source": "docstrings and signatures of the Python standard library",
        "licence": "PSF-2.0",
        "copyright": "Python Software Foundation; questions made by lensbench",
        "python_version": platform.python_version(),
        "pairs": len(pairs),
        "kinds": dict(Counter(map(_kind, pairs))),
        "modules": len({pair.group for pair in pairs}),
        "sha256": sha256,
    }


def _kind(pair: Pair) -> str:
    return pair.id.rpartition(":")[2].partition("-")[0]


def _apart(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without those that are nearly the same as an earlier one."""
    dropped: set[int] = set()
    texts = [pair_text(pair.question, pair.response) for pair in pairs]
    for first, second, _ in sorted(near_pairs(texts)):
        if first not in dropped:
            dropped.add(second)
    return [pair for i, pair in enumerate(pairs) if i not in dropped]


def _pair(name: str, asked: str, module: str, wordings: Sequence[str], **words: str) -> Pair:
    """A pair about `name`; the wording of its question follows from its id."""
    item = f"py:{name}:{asked}"
    number = int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big")
    question = wordings[number % len(wordings)].format(**{"name": name, "module": module} | words)
    return Pair(item, question, words["response"], group=module)


def _pairs(item: Item, descriptions: Counter[tuple[str, str]]) -> Iterator[Pair]:
    """All that is asked about one thing by itself."""
    words = {"signature": item.signature, "response": item.text}
    yield _pair(item.name, "what", item.module, _WHAT[item.kind], **words)
    last = item.qualname.rpartition(".")[2]
    named = re.search(rf"(?<![a-z]){re.escape(last.casefold())}(?![a-z])", item.text.casefold())
    if item.qualname and not named and descriptions[item.module, item.text] == 1:
        called = f", called as `{item.signature}`" if item.arguments is not None else ""
        yield _pair(
            item.name,
            "which",
            item.module,
            _WHICH,
            kind=item.kind,
            text=item.text,
            response=f"It is `{item.name}`{called}.",
        )
    if item.arguments is not None and item.kind in ("function", "class"):
        yield from _argument_pairs(item, item.arguments)


def _argument_pairs(item: Item, arguments: ast.arguments) -> Iterator[Pair]:
    response = f"`{item.signature}`: {describe(arguments)}"
    yield _pair(item.name, "arguments", item.module, _ARGUMENTS, response=response)
    for argument, default in _defaults(arguments):
        if isinstance(default, ast.Constant) and default.value is not None:
            yield _pair(
                item.name,
                f"default-{argument}",
                item.module,
                _DEFAULT,
                argument=argument,
                response=f"The default of `{argument}` is `{ast.unparse(default)}`.",
            )
            return  # one a function is enough


def _members(
    found: Sequence[Item], owner: str, member: str, kind: str, wordings: Sequence[str]
) -> Iterator[Pair]:
    """Members of every class, or module, that has a few with a docstring."""
    for item in found:
        if item.kind != owner:
            continue
        names = [
            other.qualname
            for other in found
            if other.kind == member
            and other.name.rpartition(".")[0] == item.name
            and other.module == item.module
        ]
        if 2 <= len(names) <= _MANY:
            short = _listed([f"`{name.rpartition('.')[2]}`" for name in names])
            response = f"For example {short}."
            yield _pair(item.name, kind, item.module, wordings, response=response)


def describe(arguments: ast.arguments) -> str:
    """A signature in words: what must be given, what may be, and how."""
    defaults = {name: ast.unparse(value) for name, value in _defaults(arguments)}
    places = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    by_name = [argument.arg for argument in arguments.kwonlyargs]
    needed = [f"`{name}`" for name in (*places, *by_name) if name not in defaults]
    optional = [
        f"`{name}` (default `{defaults[name]}`)" for name in (*places, *by_name) if name in defaults
    ]
    parts = []
    if needed:
        parts.append(f"{_listed(needed)} must be given")
    if optional:
        parts.append(f"{_listed(optional)} may be left out")
    if by_name:
        parts.append(f"{_listed([f'`{name}`' for name in by_name])} can be given by name only")
    if arguments.vararg:
        parts.append(f"further positional arguments are taken as `*{arguments.vararg.arg}`")
    if arguments.kwarg:
        parts.append(f"further named arguments are taken as `**{arguments.kwarg.arg}`")
    return ("; ".join(parts) or "it takes no arguments") + "."


def _defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    """Arguments with a default, in order. The positional ones align with the last defaults."""
    places = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    first = len(places) - len(arguments.defaults)
    found = list(zip(places[first:], arguments.defaults, strict=True))
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found + [(argument.arg, value) for argument, value in named if value is not None]


def _listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
