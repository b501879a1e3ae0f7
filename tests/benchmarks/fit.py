"""`python -m tests.benchmarks.fit`: the table of `make bench-fit`.

What it costs to fit a linear lens, stage by stage, as a multiple of the bare forward passes over
the text that its maps are fitted to; and the same by arithmetic, for larger models too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from rich.console import Console
from transformers import AutoConfig

from lensbench.checkpoints.config.shape import n_blocks
from lensbench.checkpoints.source import locate
from lensbench.costs.shape import shape_of_config
from lensbench.files import write_text
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window, parts_of
from lensbench.json_text import read_json
from lensbench.models.load import load_model
from lensbench.progress import Progress
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.studies.stages.fit import corpus_of, fit_lens
from lensbench.studies.stages.fit_arithmetic import CONTROL, FitCost
from tests.benchmarks.peers import Job, hugging_face
from tests.benchmarks.table import Model, Out, at_least, made_by, markdown_table

MOST = 3.0  # of all stages but the control, times the bare passes: what is promised
CONFIGS = Path(__file__).parents[1] / "configs"
_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
_1B |= {"head_dim": 64, "tie_word_embeddings": True}
_JOBS = "states of the text and their moments"
_ALL_BUT = "**all but that control**"


class Stages:
    """Wall seconds of each stage of a run, by what it is told of its progress."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._now, self._since = "", time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Another stage may have begun."""
        if progress.stage != self._now:
            self.end(progress.stage)

    def end(self, then: str = "") -> None:
        """The stage is over."""
        now = time.perf_counter()
        if self._now:
            self.seconds[self._now] = self.seconds.get(self._now, 0.0) + now - self._since
        self._now, self._since = then, now


def forward_passes(folder: Path, windows: Sequence[Window], batch_tokens: int) -> Job:
    """Plain Hugging Face over these texts, logits and all, in the batches of a fit."""
    model = hugging_face(folder)
    ids = [window.token_ids for window in windows]
    batches = [
        make_batch(items, ids) for items in plan_batches([len(own) for own in ids], batch_tokens)
    ]

    def job() -> object:
        with torch.inference_mode():
            for batch in batches:
                model(batch.token_ids, attention_mask=batch.attention_mask, use_cache=False)
        return None

    return job


def timed(name: str, tokens: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of the bare passes, before the fit and after it, and of the stages of the fit."""
    spec = FitSpec(name, tokens=tokens, dtype="float32", device="cpu")
    model = load_model(name, dtype="float32", device="cpu")
    windows = parts_of(corpus_of(spec, lambda: model), spec, model)[0]["fit"]
    passes = forward_passes(locate(name).require_folder(), windows, spec.batch_tokens)
    stages, bare = Stages(), [_seconds(passes)]
    with tempfile.TemporaryDirectory() as out:
        fit_lens(spec, Path(out), stages, load=lambda *_, **__: model)
    stages.end()
    # A run's progress names the model alone while its jobs are done.
    named = {_JOBS if name == spec.model else name: own for name, own in stages.seconds.items()}
    return [*bare, _seconds(passes)], named


def _seconds(job: Job) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Counted:
    """A fit of a published shape by the arithmetic of `lensbench plan`."""

    name: str
    fit: FitCost

    @classmethod
    def of(cls, name: str, fields: Mapping[str, Any], spec: FitSpec) -> Counted:
        """From the fields of a config.json."""
        config = AutoConfig.for_model(**fields)
        shape, n = shape_of_config(config, torch.float32), n_blocks(config)
        return cls(name, FitCost.before_reading(shape, n, spec.window, spec))

    @property
    def passes(self) -> float:
        """Operations of the bare passes over the text, with all logits."""
        own = self.fit
        logits = sum(own.lengths["fit"]) * own.shape.row_flops
        return own.passes("fit").flops + logits

    def column(self) -> dict[str, str]:
        """Its stages as multiples of the bare passes."""
        stages = self.fit.stages()
        return column({name: cost.flops / self.passes for name, cost in stages.items()}) | {
            "bare passes, 10^12 operations": f"{self.passes / 1e12:,.0f}",
            "memory of the moments, GB": f"{self.fit.moments_bytes / 1e9:.1f}",
        }


def shapes(spec: FitSpec) -> list[Counted]:
    """The models that are counted. Llama-3.2-1B has the fields of Llama-3-8B but a few."""
    smollm, llama = (read_json(CONFIGS / f"{name}.json") for name in ("smollm2-135m", "llama3-8b"))
    named = {"smollm2-135m": smollm, "Llama-3.2-1B": llama | _1B, "Llama-3-8B": llama}
    return [Counted.of(name, fields, spec) for name, fields in named.items()]


def bench(
    model: Model = "smollm2-135m",
    tokens: Annotated[int, at_least(1, "Tokens that the maps are fitted to.")] = 30_000,
    out: Out = Path("reports/bench"),
) -> None:
    """Seconds of a fit as multiples of the bare forward passes, stage by stage."""
    with Console(stderr=True).status("fitting"):
        bare, stages = timed(model, tokens)
    text = "\n".join(_markdown(model, tokens, bare, stages))
    write_text(out / "fit.md", text)
    Console().print(text, markup=False, highlight=False)


def _markdown(
    model: str, tokens: int, bare: Sequence[float], stages: dict[str, float]
) -> list[str]:
    mean, spec = statistics.mean(bare), FitSpec("", tokens=tokens)
    measured = [column({name: own / mean for name, own in stages.items()})]
    ratio = (sum(stages.values()) - stages.get(CONTROL, 0.0)) / mean
    counted = [one.column() for one in shapes(spec)]
    return [
        "# What it costs to fit a lens",
        "",
        f"A linear lens of {model}, its maps fitted to {tokens:,} tokens, all else as by default, "
        "on the CPU in float32. Wall time of each stage as a multiple of the plain Hugging Face "
        "forward passes over the same tokens, logits included; the model is loaded before. "
        "The passes were made before the fit and after it: the later ones took "
        f"{bare[-1] / bare[0]:.2f} times as long as the earlier ones.",
        "",
        *markdown_table(("stage", "times the bare passes"), _rows(measured)),
        "",
        f"Promised is at most {MOST:g} without the control: "
        f"{'it holds' if ratio <= MOST else '**it does not hold**'}.",
        "",
        "## By arithmetic",
        "",
        f"The same in operations, with {tokens:,} tokens too, as `lensbench plan` counts them: 2 a "
        "weight and token forward, 6.5 d_model² a layer and token for the moments (2.5 of them for "
        "1.25 in float64, where one counts as two), 2 d_model × d_vocab for each reading of a "
        "held-out token.",
        "",
        *markdown_table(("stage", *(one.name for one in shapes(spec))), _rows(counted)),
        "",
        made_by("bench-fit"),
        "",
    ]


def column(times: dict[str, float]) -> dict[str, str]:
    """Each stage and their sums, with the control and without it."""
    total = sum(times.values())
    sums = {_ALL_BUT: total - times.get(CONTROL, 0.0), "**all**": total}
    return {name: f"{value:.2f}" for name, value in times.items()} | {
        name: f"**{value:.2f}**" for name, value in sums.items()
    }


def _rows(columns: Sequence[dict[str, str]]) -> list[list[str]]:
    return [[name, *(one[name] for one in columns)] for name in columns[0]]


if __name__ == "__main__":
    cyclopts.run(bench)
