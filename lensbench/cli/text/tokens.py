"""Show what the tokenizers of some models make of texts.

Of each model only the tokenizer is read; mon-tokenizer (Unigram) is one without a model. Without a
text: the shipped examples. Pieces are shown as they are, a space as · (or ▁, as SentencePiece has
it), bytes that are no whole character as <0xE0>.
Per word: tokens for each stretch without white space; chars, bytes: of each token; unknown, byte:
tokens that are; lost: characters that do not come back when the tokens are decoded. Tokens that a
model puts around a text are left out.

--languages also says how many tokens the Universal Declaration of Human Rights takes in 45
languages, beside English. --out writes both, and what it costs, as a record with a report.

Examples:

    lensbench tokens "I loooove AIs!!!" --models smollm2-135m gemma3-270m

    lensbench tokens --models smollm2-135m all-minilm-l6-v2 --languages

    lensbench tokens --models mon-tokenizer smollm2-135m --languages

    lensbench tokens --file letter.txt --models smollm2-135m --json

    lensbench tokens --models smollm2-135m gemma3-270m --price 2.5 -o runs/tokens
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from lensbench.cli.console import (
    explain,
    messages,
    note,
    results,
    say,
    say_json,
    table,
    without_nan,
)
from lensbench.cli.lens.run import run_and_report
from lensbench.errors import InputProblems, Problem
from lensbench.escape import printable, visible
from lensbench.spec import idle
from lensbench.studies.specs.tokens import TokensSpec

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.tokenisation.result import TokensResult

_MOST_SHOWN = 200  # pieces of a text
_COLUMNS = {  # of the table, and its heading
    "n_tokens": "tokens",
    "tokens_per_word": "per word",
    "characters_per_token": "chars",
    "bytes_per_token": "bytes",
    "n_unknown": "unknown",
    "n_byte_tokens": "byte",
    "n_lost": "lost",
}


class TokensVerb(TokensSpec):
    """Texts, and whose tokenizers read them."""

    file: Path | None = None
    """A text file in UTF-8: one more text."""
    languages: bool = False
    """Show the gap of 45 languages to English too."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Write a record and a report of all this here."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """Counts and pieces of every text as JSON on standard output."""

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        found = idle(self, "out", "price")
        if self.out is not None:
            found += [
                Problem(name, "it has no effect with `out`", "Leave it out.")
                for name in ("languages", "as_json")
                if getattr(self, name)
            ]
        if self.as_json and self.languages:
            found.append(Problem("languages", "it has no effect with `as_json`", "Leave it out."))
        return found + super().problems()


def tokens(spec: Annotated[TokensVerb, Parameter("*")]) -> int:
    texts = (*spec.texts, *_of_file(spec.file))
    if spec.out is not None:
        shared = spec.shared(TokensSpec) | {"texts": texts}
        return run_and_report(TokensSpec(**shared), spec.out)
    from lensbench.tokenisation.result import tokens as compare

    with messages.status("reading tokenizers"):
        result = compare(texts, spec.models)
    if spec.as_json:
        say_json(_plain(result))
        return 0
    for text in result.texts:
        _show(result, text.id, text.text)
    if spec.languages:
        with messages.status("reading 45 languages"):
            gaps = result.gaps
        _show_gaps(gaps)
    explain(
        "per word: tokens of a stretch without white space; chars, bytes: of each token; unknown, "
        "byte: tokens that are; lost: characters that do not come back. With -o FOLDER: a report "
        "of it, with 45 languages and what they cost."
    )
    return 0


def _of_file(path: Path | None) -> tuple[str, ...]:
    """The text of a file. Raises InputProblems where it cannot be read."""
    from lensbench.prompts.rows import text_of

    if path is None:
        return ()
    if not path.is_file():
        raise InputProblems([Problem(str(path), "there is no such file", "Check the path.")])
    text = text_of(path, str(path))
    if not text.strip():
        raise InputProblems([Problem(str(path), "it is empty", "Write a text in it.")])
    return (text,)


def _show(result: TokensResult, text_id: str, text: str) -> None:
    """One text: a row a tokenizer, and under them the pieces."""
    own = result.table[result.table["text_id"] == text_id]
    results.print(Text(f"{text_id}: {printable(text)}"))
    rows = [
        {"model": row["model"]} | {head: _number(row[name]) for name, head in _COLUMNS.items()}
        for row in own.to_dict("records")
    ]
    results.print(table(rows, left=("model",)))
    for model, n_tokens in zip(own["model"], own["n_tokens"], strict=True):
        longest = result.contexts[model]
        if longest is not None and n_tokens > longest:
            note(f"{text_id}: {n_tokens:,} tokens are more than the {longest:,} of {model}")
    pieces = result.pieces[result.pieces["text_id"] == text_id]
    for model in own["model"]:
        shown = [visible(one) for one in pieces.loc[pieces["model"] == model, "shown"]]
        rest = len(shown) - _MOST_SHOWN
        more = f" ... and {rest:,} more" if rest > 0 else ""
        results.print(Text(f"{printable(model)}: {' | '.join(shown[:_MOST_SHOWN])}{more}"))
    results.print()


def _number(value: Any) -> object:
    """Counts whole, ratios in three digits, what is not there as n/a."""
    import pandas as pd

    if pd.isna(value):
        return None
    return f"{value:.2f}" if isinstance(value, float) else int(value)


def _show_gaps(gaps: pd.DataFrame) -> None:
    """A row a language, a column a model."""
    own = gaps[gaps["language"].notna()]
    rows: dict[str, dict[str, object]] = {}
    for one in own.to_dict("records"):
        code = str(one["language"])
        row = rows.setdefault(code, {"language": code, "script": one["script"]})
        row[str(one["model"])] = f"{one['gap']:.2f} [{one['gap_low']:.2f}, {one['gap_high']:.2f}]"
    models = tuple(own["model"].unique())
    results.print(table(list(rows.values()), left=("language", "script", *models)))
    say("tokens of the same articles, English = 1, with 95 % intervals over articles")


def _plain(result: TokensResult) -> list[dict[str, Any]]:
    """Counts and pieces, an entry per text x model."""
    rows = []
    for row in result.table.to_dict("records"):
        pieces = result.pieces
        own = pieces[(pieces["text_id"] == row["text_id"]) & (pieces["model"] == row["model"])]
        listed = own.drop(columns=["model", "text_id"]).to_dict("records")
        rows.append(without_nan(row) | {"pieces": listed})
    return rows
