"""The keys of an `analysis.toml`, kind by kind, written from the specs.

python -m lensbench.studies.specs.keys analyses/README.md
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from lensbench.files import write_text
from lensbench.spec import Spec
from lensbench.studies.analysis import KINDS

_INTRODUCTION = """# Analyses

A folder `NNN_question/` holds a README (claim, method, result) and an `analysis.toml`.
`lensbench run analyses/NNN_question` runs it, or goes on with it, and writes
`reports/NNN_question/`.

These are the keys, by the `kind` that the file names (`lens` without one). Keys without a default
are needed. A file is looked up beside the analysis first, then from where you are; a `limit` of 0
asks all. One value may stand for a list of it. Written from the specs by
`python -m lensbench.studies.specs.keys`; do not edit.
"""


def keys() -> str:
    """The whole document, in Markdown."""
    return "\n".join([_INTRODUCTION, *(_kind(kind, spec) for kind, spec in KINDS.items())])


def _kind(kind: str, spec: type[Spec]) -> str:
    rows = [("key", "meaning", "default"), ("---", "---", "---")]
    for name, field in spec.model_fields.items():
        default = "" if field.is_required() else _default(field.default)
        meaning = str(field.description).replace("; repeatable", "").replace("|", "\\|")
        rows.append((f"`{name}`", meaning, default))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f'## kind = "{kind}"\n\n{inspect.getdoc(spec)}\n\n{table}'


def _default(value: Any) -> str:
    """As TOML has it; nothing for what follows a rule that the meaning states."""
    if value is None or value in ((), {}):
        return "-"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, Spec):
        listed = (f"{name} = {_toml(own)}" for name, own in value.settings().items())
        return f"{{ {', '.join(listed)} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), keys())
