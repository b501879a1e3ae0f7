"""One prompt's reading as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lensbench.cli.console import results
from lensbench.escape import printable, visible
from lensbench.lens.gate import lens_identity
from lensbench.lens.result import LensResult
from lensbench.models.model import LensModel
from lensbench.prompts.encode import TokenText

_LEAST_ROOM = 8  # characters for the top tokens, however narrow the terminal


def show(model: LensModel, result: LensResult, rows: Any, own: bool) -> None:
    """Print the rows of one position, a table a lens; where room is short, top tokens are cut.

    `own`: no answer was asked for, so the one that is followed is the model's own next token.
    """
    followed = visible(TokenText(model.tokenizer)(int(rows.answer_id.iloc[0])))
    at = f"position {rows.position.iloc[0]}, {visible(rows.token.iloc[0])!r}"
    text = printable(result.prompts["text"][0].as_py())
    results.print(Text(f"{printable(result.model)}: {text} ({at})"))
    for lens, read in rows.groupby("lens", sort=False):
        if rows["lens"].nunique() > 1:
            results.print(Text(f"lens: {printable(str(lens))}"))
        results.print(_table(read, followed))
    gate = lens_identity(model, result.gate_kl_bits)
    results.print(
        f"entropy and KL(model || lens) in bits; layer 0 is the embedding; the last layer is the "
        f"model within {gate.error:.1e} bits (bound {gate.bound:.0e})",
        highlight=False,
    )
    said = [f"the model's own next token, {followed!r}"] if own else result.notes
    for note in said:
        results.print(f"answer: {note}", highlight=False, markup=False)
    for note in result.arithmetic:
        results.print(note, highlight=False, markup=False)


def _table(rows: Any, followed: str) -> Table:
    headings = ("layer", "top tokens", "p", "entropy", "KL", f"p({followed})", "rank")
    cells = [_cells(row) for row in rows.itertuples()]
    numbers = [i for i in range(len(headings)) if i != 1]
    taken = sum(max(len(row[i]) for row in (headings, *cells)) for i in numbers)
    room = max(results.width - taken - 3 * len(numbers) - 2, _LEAST_ROOM)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if i in numbers else "left", no_wrap=True)
    for row in cells:
        shown = [Text(cell) for cell in row]
        shown[1].truncate(room, overflow="ellipsis")
        shown[-1].stylize("bold green" if row[-1] == "1" else "")
        table.add_row(*shown)
    return table


def _cells(row: Any) -> list[str]:
    return [
        f"{row.layer} mid" if row.site == "resid_mid" else str(row.layer),
        " ".join(visible(token) for token in row.top_tokens),
        f"{row.top_probs[0]:.3f}",
        f"{row.entropy_bits:.2f}",
        f"{row.kl_bits:.2f}",
        f"{row.answer_prob:.3f}",
        f"{row.answer_rank:,.0f}",
    ]
