"""A grid of settings from one pass over a prompt, beside one `generate` a setting.

The plain way is what a script does: transformers' generate with each setting in turn, one new
token, its scores returned, and the entropy of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from rich.console import Console

from lensbench.checkpoints.source import locate
from lensbench.files import write_text
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.sampling.effects import effects
from lensbench.sampling.model import read
from lensbench.sampling.settings import GRID, Setting, settings_of
from tests.benchmarks.measure import round_robin
from tests.benchmarks.peers import Job
from tests.benchmarks.table import Out, Rounds, at_least, made_by, markdown_table, ratios

FLOOR = "one forward pass"
OURS = "lensbench, the whole grid"
PLAIN = "one generate a setting"
_WORDS = "In a village at the foot of a mountain there lived a clockmaker who "
_console = Console(stderr=True)


@dataclass(frozen=True)
class Grid:
    """A prompt of so many tokens, and the settings."""

    folder: Path
    n_tokens: int

    @cached_property
    def model(self) -> AdaptedModel:
        """Float32, on the CPU."""
        return load_quantized(str(self.folder), bits=32, device="cpu")

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The prompt."""
        found = self.model.tokenizer(_WORDS * (self.n_tokens // 8 + 1)).input_ids
        return tuple(found[: self.n_tokens])

    @cached_property
    def settings(self) -> list[Setting]:
        """The shipped grid, but for greedy: generate gives no scores of it to draw from."""
        return [one for one in settings_of(GRID) if not one.greedy]


def floor(grid: Grid) -> Job:
    """A pass over the prompt: what nobody can avoid."""
    return lambda: read(grid.model, grid.ids).logits


def lensbench(grid: Grid) -> Job:
    """One pass, and every number of every setting."""
    return lambda: [
        one.entropy_bits
        for one in effects(read(grid.model, grid.ids).logits, grid.ids, grid.settings)
    ]


def plain(grid: Grid) -> Job:
    """transformers' generate, setting by setting, and the entropy of its scores."""
    ids = torch.tensor([grid.ids])

    def one(setting: Setting) -> float:
        out: Any = grid.model.base.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=1,
            do_sample=True,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
            temperature=setting.temperature,
            top_k=setting.top_k,
            top_p=setting.top_p,
            min_p=setting.min_p,
            repetition_penalty=float(setting.repetition_penalty),
        )
        shares = out.scores[0][0].double().softmax(-1)
        return float(torch.special.entr(shares).sum()) / math.log(2)

    return lambda: [one(setting) for setting in grid.settings]


WAYS = {FLOOR: floor, OURS: lensbench, PLAIN: plain}


def bench(
    models: Annotated[
        tuple[str, ...], cyclopts.Parameter(consume_multiple=True, help="Aliases or folders.")
    ] = ("smollm2-135m", "gemma3-270m"),
    tokens: Annotated[int, at_least(2, "Tokens of the prompt.")] = 64,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time of a grid of settings beside one generate a setting."""
    seconds = {}
    for model in models:
        grid = Grid(locate(model).require_folder(), tokens)
        with _console.status(f"timing {model}"):
            seconds[model] = round_robin({name: make(grid) for name, make in WAYS.items()}, rounds)
    n = len(settings_of(GRID)) - 1
    text = "\n".join(table(seconds, n, tokens, rounds))
    write_text(out / "sample.md", text)
    Console().print(text, markup=False, highlight=False)


def table(
    seconds: Mapping[str, Mapping[str, Sequence[float]]], n: int, tokens: int, rounds: int
) -> list[str]:
    """The document's lines."""
    rows = [
        [model, name, ratios(times, own[FLOOR])]
        for model, own in seconds.items()
        for name, times in own.items()
    ]
    return [
        "# A grid of settings beside the plain way",
        "",
        f"{n} settings of the next token behind a prompt of {tokens} tokens, float32. Time is a "
        f"multiple of one pass over the prompt, paired within each of {rounds} rounds: median "
        "(least to most). The plain way measures the entropy alone; lensbench also what is kept, "
        "its probability and the total variation.",
        "",
        *markdown_table(("model", "what", "time, times the pass"), rows),
        "",
        made_by("bench-sample"),
        "",
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
