"""`lensbench data`: from prompts and responses to training data that holds no surprises."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.cli.options import StyleName
from lensbench.errors import InputProblems, Problem

if TYPE_CHECKING:
    import numpy as np

    from lensbench.quantized.data.check import Match
    from lensbench.quantized.data.pairs import Pair, PairSet

data = typer.Typer(
    no_args_is_help=True,
    help="Training data: merge, convert, check, split; and the sets that lensbench has itself.",
)


class FormName(StrEnum):
    """How a pair is written as JSON."""

    alpaca = "alpaca"
    messages = "messages"


class KindName(StrEnum):
    """What a question about the standard library asks for."""

    what = "what"
    which = "which"
    arguments = "arguments"
    default = "default"
    methods = "methods"
    functions = "functions"


class ShippedName(StrEnum):
    """Sets that travel with lensbench."""

    general = "general"
    retrieval = "retrieval"
    python_reference = "python_reference"


Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
Near = Annotated[
    float,
    typer.Option(
        min=0.5, max=1.0, help="Similarity from which rows are near duplicates, 1 being equal."
    ),
]


@data.command()
def merge(
    prompts: Annotated[Path, typer.Argument(help="A .csv or .jsonl with id, prompt.")],
    responses: Annotated[Path, typer.Argument(help="A .csv or .jsonl with id, response.")],
    out: Out,
) -> None:
    """Join prompts and responses by id into one CSV.

    Rows without a counterpart, with an id seen before or with nothing in them are left out and
    listed, here and in a `.problems.csv` beside the output (exit status 1). A quote that `lensbench
    infer` put before a leading = + - @ in a response is taken off first.

    Example:

        lensbench data merge prompts.csv responses.csv -o merged.csv
    """
    from lensbench.quantized.data.merge import merge as join
    from lensbench.quantized.data.pairs import write_csv

    _require_new(out, [prompts, responses], ".csv")
    pairs, problems = join(prompts, responses)
    if not pairs:
        what = "no prompt has a response"
        raise InputProblems([*problems, Problem(str(out), what, "Check that the ids match.")])
    write_csv(out, pairs)
    typer.echo(f"{out}: {len(pairs):,} pairs")
    _leave_out(problems, out.with_suffix(".problems.csv"))


@data.command("to-jsonl")
def to_jsonl(
    pairs: Annotated[Path, typer.Argument(help="A .csv of pairs, or a .jsonl in either format.")],
    out: Out,
    form: Annotated[
        FormName, typer.Option("--format", help="alpaca: instruction and response; messages: chat.")
    ] = FormName.alpaca,
    system: Annotated[
        str | None, typer.Option(help="With --format messages: a system message for every row.")
    ] = None,
) -> None:
    """Write pairs as JSON Lines for instruction tuning.

    A CSV needs the columns id, prompt (or instruction, question) and response (or output, answer);
    input, system and group are taken along.

    Examples:

        lensbench data to-jsonl merged.csv -o data.jsonl

        lensbench data to-jsonl merged.csv -o chat.jsonl --format messages --system "Be brief."
    """
    from dataclasses import replace

    from lensbench.quantized.data.pairs import read_pairs, write_jsonl

    if system is not None and form is FormName.alpaca:
        raise typer.BadParameter("--system has no effect with --format alpaca")
    _require_new(out, [pairs], ".jsonl")
    found = read_pairs(pairs)
    rows = found.pairs
    if system is not None:
        rows = [replace(pair, system=system) for pair in rows]
    write_jsonl(out, rows, form.value)
    typer.echo(f"{out}: {len(rows):,} pairs")
    _leave_out(found.problems, out.with_suffix(".problems.csv"))


@data.command()
def check(
    pairs: Annotated[Path, typer.Argument(help="A .jsonl or .csv of pairs.")],
    model: Annotated[
        str | None, typer.Option(help="Measure lengths in this model's tokens, not in characters.")
    ] = None,
    style: Annotated[
        StyleName | None,
        typer.Option(help="With --model. Default: chat for rows of messages, else alpaca."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A file that must share no row with this one; repeatable."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="With --model: tokens a pair may have. Default: its context."),
    ] = None,
    near: Near = 0.8,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Look for duplicates, leaks between files, empty rows and pairs that are too long.

    Exits with 1 when a row is malformed or empty, occurs twice (nearly or exactly), or leaks from
    another file. One question with several responses, and pairs that are too long, are only shown.

    Examples:

        lensbench data check data.jsonl --model smollm2-135m

        lensbench data check train.jsonl --against eval.jsonl --against test.jsonl
    """
    from lensbench.cli.console import interruptible, messages
    from lensbench.quantized.data.check import FAULTS, matches
    from lensbench.quantized.data.pairs import read_pairs

    if model is None and (max_length is not None or style is not None):
        raise typer.BadParameter("--max-length and --style have no effect without --model")
    with interruptible(), messages.status("comparing rows"):
        found = read_pairs(pairs)
        others = [read_pairs(path) for path in against or []]
        alike = matches(found, others, near)
        lengths = _lengths(pairs, found.pairs, model, style, max_length)
    problems = [problem for pair_set in (found, *others) for problem in pair_set.problems]
    if json:
        typer.echo(jsonlib.dumps(_facts(found, alike, problems, lengths), indent=1))
    else:
        _show(found, alike, problems, lengths)
    if problems or any(match.kind in FAULTS for match in alike):
        raise typer.Exit(1)


@data.command()
def split(
    pairs: Annotated[Path, typer.Argument(help="A .jsonl of pairs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    train: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of train.jsonl.")] = 0.8,
    eval_share: Annotated[
        float, typer.Option("--eval", min=0.0, max=1.0, help="Share of eval.jsonl.")
    ] = 0.1,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of test.jsonl.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    near: Near = 0.8,
) -> None:
    """Split pairs into train.jsonl, eval.jsonl and test.jsonl so that nothing leaks.

    Rows of one `group`, with the same question or nearly the same stay together. A row's place
    follows from its id (or group) and the seed, so rows added later do not move the earlier ones;
    the shares are therefore met on average only.

    Example:

        lensbench data split data.jsonl --train 0.8 --eval 0.1 --test 0.1 --seed 0 -o splits
    """
    from lensbench.cli.console import interruptible, messages
    from lensbench.files import write_text
    from lensbench.prompts.rows import text_of
    from lensbench.quantized.data.pairs import read_pairs
    from lensbench.quantized.data.split import split as divide

    if pairs.suffix.lower() != ".jsonl":
        remedy = f"Make one with: lensbench data to-jsonl {pairs.name} -o {pairs.stem}.jsonl"
        raise InputProblems([Problem(pairs.name, "it is no .jsonl file", remedy)])
    shares = {"train": train, "eval": eval_share, "test": test}
    for name in shares:
        _require_new(out / f"{name}.jsonl", [pairs], ".jsonl")
    with interruptible(), messages.status("comparing rows"):
        found = read_pairs(pairs)
        parts = divide(found.pairs, shares, seed, near)
    lines = text_of(pairs, pairs.name).split("\n")
    for name, part in parts.items():
        rows = [lines[pair.row - 1].strip() + "\n" for pair in part if pair.row is not None]
        write_text(out / f"{name}.jsonl", "".join(rows))
        share = f"{len(part) / len(found.pairs):.1%}"
        typer.echo(f"{out / f'{name}.jsonl'}: {len(part):,} pairs ({share})")
    _leave_out(found.problems, out / "split.problems.csv")


@data.command()
def docstrings(
    out: Out,
    kind: Annotated[
        list[KindName] | None, typer.Option(help="Only such questions; repeatable. Default: all.")
    ] = None,
) -> None:
    """Make question/answer pairs of the installed Python standard library's docstrings.

    The same version of Python gives the same file. A `.about.json` beside it states the licence
    (PSF-2.0), the Python version and the SHA-256 of the file. A pair's group is its module.

    Examples:

        lensbench data docstrings -o pairs.jsonl

        lensbench data docstrings --kind what -o documents.jsonl   (one a thing, to search in)
    """
    from lensbench.cli.console import interruptible, messages
    from lensbench.files import sha256_of, write_text
    from lensbench.quantized.data.docstrings import KINDS, docstring_pairs, provenance
    from lensbench.quantized.data.pairs import write_jsonl

    _require_new(out, [], ".jsonl")
    with interruptible(), messages.status("reading the standard library"):
        pairs = docstring_pairs([name.value for name in kind] if kind else KINDS)
    write_jsonl(out, pairs)
    facts = provenance(sha256_of(out), pairs)
    write_text(out.with_suffix(".about.json"), jsonlib.dumps(facts, indent=2) + "\n")
    typer.echo(
        f"{out}: {len(pairs):,} pairs of {facts['modules']} modules of Python "
        f"{facts['python_version']}, licence {facts['licence']}, sha256 {facts['sha256']}"
    )


@data.command()
def shipped(
    name: Annotated[
        ShippedName,
        typer.Argument(
            help="general: questions and answers; python_reference: about Python; "
            "retrieval: labelled questions."
        ),
    ],
    out: Out,
) -> None:
    """Copy a data set that travels with lensbench (licence CC0-1.0).

    `retrieval` asks in other words for pairs of `general` and of `data docstrings --kind what`.

    Example:

        lensbench data shipped general -o general.csv
    """
    from lensbench.files import write_bytes
    from lensbench.quantized.data.shipped import dataset

    _require_new(out, [], ".csv")
    write_bytes(out, dataset(name.value).read_bytes())
    typer.echo(str(out))


def _require_new(out: Path, inputs: Sequence[Path], suffix: str) -> None:
    """The output has the right kind of name and is none of the inputs."""
    if out.suffix.lower() != suffix:
        raise typer.BadParameter(f"{out} must end in {suffix}", param_hint="--out")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise typer.BadParameter(f"{out} is one of the inputs", param_hint="--out")


def _leave_out(problems: Sequence[Problem], path: Path) -> None:
    """Say which rows were left out and why, keep all of it in a file, and exit with 1."""
    import csv
    import io

    from lensbench.cli.console import show_problems
    from lensbench.escape import csv_cell
    from lensbench.files import write_text

    if not problems:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "where", "what", "remedy"))
    for problem in problems:
        cells = (problem.prompt_id or "", problem.where, problem.what, problem.remedy)
        writer.writerow(map(csv_cell, cells))
    write_text(path, text.getvalue())
    show_problems(problems, kept_in=str(path))
    raise typer.Exit(1)


def _lengths(
    path: Path,
    pairs: Sequence[Pair],
    model: str | None,
    style: StyleName | None,
    max_length: int | None,
) -> dict[str, Any]:
    """Quantiles of the pairs' lengths, the unit, and with a model which pairs are too long."""
    from lensbench.quantized.data.check import character_lengths, quantiles, token_lengths

    if model is None:
        return {"unit": "characters", "quantiles": quantiles(character_lengths(pairs))}
    from lensbench.checkpoints.open import open_config, open_tokenizer, quiet
    from lensbench.checkpoints.ref import ModelRef
    from lensbench.quantized.training.examples import style_of

    folder = ModelRef.of(model).folder
    with quiet():
        tokenizer = open_tokenizer(folder)
        context = int(open_config(folder).get_text_config().max_position_embeddings)
    framed = style.value if style is not None else style_of(path)
    lengths = token_lengths(pairs, tokenizer, framed)
    limit = max_length or context
    return {
        "unit": "tokens",
        "model": model,
        "style": framed,
        "quantiles": quantiles(lengths),
        "max_length": limit,
        "too_long": _too_long(pairs, lengths, limit),
    }


def _too_long(pairs: Sequence[Pair], lengths: np.ndarray, limit: int) -> list[dict[str, Any]]:
    totals = lengths.sum(axis=1).tolist()
    return [
        {"id": pair.id, "row": pair.row, "tokens": total}
        for pair, total in zip(pairs, totals, strict=True)
        if total > limit
    ]


def _facts(
    found: PairSet, alike: Sequence[Match], problems: Sequence[Problem], lengths: dict[str, Any]
) -> dict[str, Any]:
    return {
        "file": found.name,
        "sha256": found.sha256,
        "pairs": len(found.pairs),
        "lengths": lengths,
        "counts": _counts(alike),
        "matches": [vars(match) for match in alike],
        "problems": [vars(problem) for problem in problems],
    }


def _counts(alike: Sequence[Match]) -> dict[str, int]:
    from lensbench.quantized.data.check import KINDS

    return {kind: sum(match.kind == kind for match in alike) for kind in KINDS}


def _show(
    found: PairSet, alike: Sequence[Match], problems: Sequence[Problem], lengths: dict[str, Any]
) -> None:
    from rich.table import Table

    from lensbench.cli.console import literal, results, show_problems
    from lensbench.quantized.data.check import KINDS, QUANTILES

    results.print(f"{literal(found.name)}: {len(found.pairs):,} pairs", highlight=False)
    unit = lengths["unit"]
    if "model" in lengths:
        unit += f" of {literal(lengths['model'])}, style {lengths['style']}"
    sizes = Table(f"length in {unit}", box=None, pad_edge=False, header_style="bold")
    for label in QUANTILES:
        sizes.add_column(label, justify="right")
    for part, values in lengths["quantiles"].items():
        sizes.add_row(part, *(f"{value:,.0f}" for value in values.values()))
    results.print(sizes)
    counts = _counts(alike)
    faults = Table("rows", "too much alike", "", box=None, pad_edge=False, header_style="bold")
    for kind, meaning in KINDS.items():
        faults.add_row(f"{counts[kind]:,}", kind, meaning)
    results.print(faults, highlight=False)
    _list([f"{m.kind} ({m.similarity:.2f}): {m.first} / {m.second}" for m in alike])
    if "model" in lengths:
        long = lengths["too_long"]
        results.print(f"longer than {lengths['max_length']:,} tokens: {len(long):,}")
        _list([f"row {pair['row']}, id {pair['id']}: {pair['tokens']:,} tokens" for pair in long])
    show_problems(problems, kept_in="the output of --json")


def _list(lines: Sequence[str]) -> None:
    """The first lines, and how many more there are."""
    from lensbench.cli.console import SHOWN, literal, results

    for line in lines[:SHOWN]:
        results.print(f"  {literal(line)}", highlight=False, soft_wrap=True)
    if len(lines) > SHOWN:
        results.print(f"  ... and {len(lines) - SHOWN:,} more; all are in the output of --json")
