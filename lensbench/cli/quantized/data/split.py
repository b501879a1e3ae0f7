"""Split pairs into train.jsonl, eval.jsonl and test.jsonl so that nothing leaks.

Rows of one `group`, with the same question or nearly the same stay together. A row's place follows
from its id (or group) and the seed, so rows added later do not move the earlier ones; the shares
are therefore met on average only. Of a dozen rows a part may get none so; then it gets one of the
others, and that is said.

Example:

    lensbench data split data.jsonl --train 0.8 --eval 0.1 --test 0.1 --seed 0 \
        -o splits
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import interruptible, messages, say
from lensbench.cli.quantized.data.files import require_new, skip
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.data.spec import NEAR, Near
from lensbench.spec import ARGUMENT, Seed, Spec

Portion = Annotated[float, Field(ge=0, le=1)]


class SplitSpec(Spec):
    """What is split, and into what."""

    pairs: Annotated[Path, ARGUMENT]
    """A .jsonl or .json of pairs."""
    out: Annotated[Path, Parameter(("--out", "-o"))]
    """The folder to write to."""
    train: Portion = 0.8
    """Share of train.jsonl."""
    eval: Portion = 0.1
    """Share of eval.jsonl."""
    test: Portion = 0.1
    """Share of test.jsonl."""
    seed: Seed = 0
    """Another seed gives another split."""
    near: Near = NEAR


def split(spec: Annotated[SplitSpec, Parameter("*")]) -> int:
    from lensbench.quantized.data.pairs import is_json
    from lensbench.quantized.data.split import split_file

    pairs = spec.pairs
    if not is_json(pairs):
        remedy = f"Make one with: lensbench data to-jsonl {pairs.name} -o {pairs.stem}.jsonl"
        raise InputProblems([Problem(pairs.name, "it is no .jsonl or .json file", remedy)])
    shares = {"train": spec.train, "eval": spec.eval, "test": spec.test}
    for name in shares:
        require_new(spec.out / f"{name}.jsonl", [pairs], ".jsonl")
    with interruptible(kept=False), messages.status("comparing rows"):
        counts, problems = split_file(pairs, spec.out, shares, spec.seed, spec.near)
    whole = sum(counts.values())
    for path, n in counts.items():
        say(f"{path}: {n:,} pairs ({n / whole:.1%})")
    return skip(problems, spec.out / "split.problems.csv")
