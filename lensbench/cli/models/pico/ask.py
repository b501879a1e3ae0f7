"""What `lensbench pico` does by itself: it asks whether to train, to analyse, or both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from rich.prompt import IntPrompt, Prompt

from lensbench.cli.console import messages
from lensbench.errors import InputProblems, Problem

_ELSE = (
    "Say what to do: lensbench pico train -o DIR, then lensbench pico analyse DIR -o OTHER. "
    "Their --help has examples."
)


def ask() -> int:
    from lensbench.cli.models.pico.analyse import analyse
    from lensbench.cli.models.pico.train import train
    from lensbench.pico.spec import AnalyseSpec, Preset, SeedsSpec

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        what = "it asks what to do, and there is no terminal to ask at"
        raise InputProblems([Problem("lensbench pico", what, _ELSE)])
    wanted = _one_of("Train a small model, analyse one, or both?", ("train", "analyse", "both"))
    out = Path(_text("Its folder", "runs/pico"))
    status, runs = 0, [out]
    if wanted != "analyse":
        preset = _one_of("How large?", get_args(Preset))
        n_seeds = max(IntPrompt.ask("How many seeds", console=messages, default=1), 1)
        spec = SeedsSpec(out=out, preset=preset, seed=tuple(range(n_seeds)))
        runs = [one.out for one in spec.trainings]
        status = train(spec)
    elif not (out / "manifest.json").is_file():
        runs = sorted(path for path in out.glob("*") if (path / "manifest.json").is_file()) or [out]
    if wanted != "train":
        analysed = out.with_name(f"{out.name}-analysis")
        status = max(status, analyse(AnalyseSpec(runs=tuple(runs), out=analysed)))
    return status


def _one_of(question: str, choices: tuple[Any, ...]) -> Any:
    return Prompt.ask(question, console=messages, choices=list(choices), default=choices[0])


def _text(question: str, default: str) -> str:
    return Prompt.ask(question, console=messages, default=default)
