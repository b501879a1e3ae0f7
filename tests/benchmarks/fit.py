"""`python -m tests.benchmarks.fit`: the table of `make bench-fit`.

What it costs to fit a linear lens, stage by stage, as a multiple of the bare forward passes over
the text that its maps are fitted to; and the same by arithmetic, for larger models too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
import torch
from rich.console import Console

from lensbench.checkpoints.source import locate
from lensbench.files import write_text
from lensbench.fitting.causal.record import DEPTHS, TEXTS, TOKENS
from lensbench.fitting.linear import STRENGTHS
from lensbench.fitting.moments import STRIPS
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window, parts_of
from lensbench.models.load import load_model
from lensbench.progress import Progress
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.studies.stages.fit import corpus_of, fit_lens
from tests.benchmarks.peers import Job, hugging_face
from tests.benchmarks.table import Model, Out, at_least, made_by, markdown_table

CONTROL = "fitting the control to an untrained model"
MOST = 3.0  # of all stages but the control, times the bare passes: what is promised
_READINGS = 4  # read on held-out text: the lens, calibration, shuffled, final
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
class Shape:
    """What the cost of a fit depends on. `tied`: the embedding is the head."""

    name: str
    n_params: int
    n_layers: int
    d_model: int
    d_vocab: int
    tied: bool

    @property
    def head(self) -> float:
        """Floating-point operations of one token's logits."""
        return 2.0 * self.d_model * self.d_vocab

    @property
    def body(self) -> float:
        """... of one token's forward pass up to the last block (2 a parameter that multiplies)."""
        return 2.0 * self.n_params - self.head * (1 if self.tied else 2)

    @property
    def moments_bytes(self) -> int:
        """Of the sums in float64 that stand in memory, and in each part on the disk."""
        return 3 * 8 * self.n_layers * self.d_model**2

    def stages(self, spec: FitSpec) -> dict[str, float]:
        """Operations of each stage of a fit; one in float64 counts as two.

        Left out: the embedding, attention's scores, norms, and what is linear in the vocabulary.
        """
        d, n, tokens = self.d_model, self.n_layers, spec.tokens
        states = tokens * self.body
        # x'x in float64, of which strips leave out most of one half; x'y, and x'y shuffled.
        moments = tokens * n * (4 * (1 + 1 / STRIPS) / 2 + 2 + 2) * d**2
        # Eigenvectors take about 9 d^3, each strength 2, the turned targets 2, twice for shuffled.
        maps = 2 * n * (9 + 2 * len(STRENGTHS) + 6) * d**3
        chosen = spec.choose_tokens * (self.body + self.head * (2 + n * len(STRENGTHS)))
        told = spec.test_tokens * (self.body + self.head * (2 + (n + 1) * _READINGS))
        removed = spec.directions * len(DEPTHS) * TEXTS * TOKENS * (self.body + 4 * self.head)
        read = spec.choose_tokens * self.head * n * len(STRENGTHS)
        read += spec.test_tokens * self.head * n
        return {
            "states of the text": states,
            "their moments": moments,
            "maps": maps,
            "held-out text": chosen + told,
            "removing directions": removed,
            CONTROL: 2 * states + moments + maps + read,
        }

    def passes(self, spec: FitSpec) -> float:
        """Operations of the bare passes over the text."""
        return spec.tokens * (self.body + self.head)


SHAPES = (
    Shape("smollm2-135m", 134_515_008, 30, 576, 49_152, tied=True),
    Shape("Llama-3.2-1B", 1_235_814_400, 16, 2048, 128_256, tied=True),
    Shape("Llama-3-8B", 8_030_261_248, 32, 4096, 128_256, tied=False),
)


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
    counted = [
        column({name: n / shape.passes(spec) for name, n in shape.stages(spec).items()})
        | {
            "bare passes, 10^12 operations": f"{shape.passes(spec) / 1e12:,.0f}",
            "memory of the moments, GB": f"{shape.moments_bytes / 1e9:.1f}",
        }
        for shape in SHAPES
    ]
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
        f"The same in operations, with {tokens:,} tokens too: 2 a parameter and token forward, 6.5 "
        "d_model² a layer and token for the moments (in float64, where one counts as two), 2 "
        "d_model × d_vocab for each reading of a held-out token.",
        "",
        *markdown_table(("stage", *(shape.name for shape in SHAPES)), _rows(counted)),
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
