"""Compare texts by the angle between their vectors: sentence and word embeddings.

With texts: the cosine of each with every other, the closest first. Without: six shipped pairs, four
of them with the cosine that is said of them elsewhere (two more were published that are not known
here). --out writes a record with a report: the pairs as a heat map and in the plane, how narrow the
cone is that all vectors lie in and what widens it, with --rated how cosines are ordered beside what
people said, and with --contextual at which layer of a model the senses of a word part.

Examples:

    lensbench embed dog puppy car

    lensbench embed

    lensbench embed --pairs my.csv --json

    lensbench embed --rated wordsim353 simlex999 --umap -o runs/embed

    lensbench embed --contextual smollm2-135m all-minilm-l6-v2 -o runs/senses
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import (
    explain,
    literal,
    messages,
    results,
    say,
    say_json,
    show_problems,
    without_nan,
)
from lensbench.cli.console import table as shown_table
from lensbench.cli.lens.run import run_and_report
from lensbench.errors import Problem
from lensbench.escape import printable
from lensbench.records.schema.text.embeddings import NEAR
from lensbench.spec import ARGUMENT, without_effect
from lensbench.studies.specs.embeddings import EmbeddingsSpec

if TYPE_CHECKING:
    from lensbench.embeddings.pairs import PairSet

_OF_RECORD = ("contextual", "rated", "senses", "umap", "seed", "batch_tokens")


class EmbedVerb(EmbeddingsSpec):
    """Texts, and who reads them."""

    texts: Annotated[tuple[str, ...], Field(exclude=True), ARGUMENT] = ()
    """Two texts or more. Default: the pairs."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Run folder: a record of each model, with its report."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """Every cosine as JSON on standard output."""

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        given = self.model_fields_set
        found = []
        if self.texts and self.out:
            found.append(Problem("texts", "a record is of pairs", "Give them with `pairs`."))
        if self.texts and "pairs" in given:
            found.append(Problem("pairs", "texts are given too", "Leave out one of them."))
        idle = ("as_json",) if self.out else _OF_RECORD
        how = "with `out`" if self.out else "without `out`"
        return found + without_effect(self, idle, how) + super().problems()


_AS_USUAL = EmbedVerb()


def embed(spec: Annotated[EmbedVerb, Parameter("*")] = _AS_USUAL) -> int:
    if spec.out:
        return run_and_report(EmbeddingsSpec(**spec.shared(EmbeddingsSpec)), spec.out)
    if spec.texts:
        return _texts(spec)
    from lensbench.embeddings.pairs import load_pairs

    return _pairs(spec, load_pairs(spec.pairs))


def _texts(spec: EmbedVerb) -> int:
    """Every text with every other."""
    from lensbench.embeddings.result import embed as embedded

    collected: list[dict[str, Any]] = []
    for name in spec.encoders:
        with messages.status(f"loading {literal(name)}"):
            found = embedded(spec.texts, name, spec.device)
        rows: list[dict[str, Any]] = found.pairs.to_dict("records")  # type: ignore[assignment]
        collected += [{"model": found.model} | without_nan(row) for row in rows]
        if not spec.as_json:
            _show(found.model, [without_nan(row) for row in rows])
    if spec.as_json:
        say_json(collected)
    else:
        explain("Without texts: pairs with what was published of them; with -o FOLDER: a report.")
    return 0


def _pairs(spec: EmbedVerb, pairs: PairSet) -> int:
    """Pairs of a file, with what was said of them."""
    from lensbench.embeddings.encoder import load_sentence_encoder, vectors
    from lensbench.embeddings.geometry import cosines
    from lensbench.embeddings.measured import readable

    collected: list[dict[str, Any]] = []
    problems = list(pairs.problems)
    for name in spec.encoders:
        with messages.status(f"loading {literal(name)}"):
            encoder = load_sentence_encoder(name, spec.device)
            own, skipped = readable(encoder, pairs.pairs)
            problems += [problem for problem in skipped if problem not in problems]
            sides = [vectors(encoder, [getattr(p, side) for p in own]) for side in "ab"]
        rows = [
            {"a": pair.a, "b": pair.b, "published": pair.published, "cosine": cosine}
            for pair, cosine in zip(own, cosines(*sides), strict=True)
        ]
        collected += [{"model": encoder.name} | without_nan(row) for row in rows]
        if not spec.as_json and rows:
            _show(encoder.name, [_judged(without_nan(row)) for row in rows])
    show_problems(problems, "the lines above")
    if spec.as_json:
        say_json(collected)
    else:
        explain("With -o FOLDER: a report of it, with a map and what widens the cone.")
    return 1 if problems else 0


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """With how far what was said is from what is."""
    said, cosine = row["published"], row["cosine"]
    if said is None or cosine is None:
        return row | {"off": ""}
    return row | {"off": f"{said - cosine:+.2f}{'' if abs(said - cosine) <= NEAR else ' !'}"}


def _show(model: str, rows: list[dict[str, Any]]) -> None:
    say(printable(model))
    cells = [{key: _cell(key, value) for key, value in row.items()} for row in rows]
    results.print(shown_table(cells, left=("a", "b")))
    if any("!" in str(row.get("off")) for row in rows):
        explain(f"off: what was published less what is; ! beyond {NEAR}.")


def _cell(key: str, value: object) -> object:
    if value is None:
        return "" if key == "published" else None
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))
