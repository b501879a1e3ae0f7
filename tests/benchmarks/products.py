"""`python -m tests.benchmarks.products`: a head's products in bfloat16 parts beside float32's.

Random heads of real shapes, their weights stored in bfloat16, on one device. A reading is all that
the lens measures by default; the floor is the bare float32 products, written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cyclopts
import torch
from cyclopts import Parameter
from rich.console import Console

from lensbench.checkpoints.devices import pick_device
from lensbench.files import write_text
from lensbench.lens.metrics import LN_2
from lensbench.lens.vocabulary.output import Output
from lensbench.lens.vocabulary.reading import Reading
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models.readout import Readout
from tests.benchmarks.measure import round_robin, waited
from tests.benchmarks.peers import Job
from tests.benchmarks.table import (
    Device,
    Out,
    Rounds,
    device_name,
    made_by,
    markdown_table,
    ratios,
)

_LOGIT_SD = 3.0
_CELLS, _SITES = 16, 32
_EXACT_ROWS = 16
_RANKS = (1, 10, 300, 10_000)  # of the tokens that are followed, among the model's own


@dataclass(frozen=True)
class Shape:
    """A head: its model, and in which dtype that is loaded."""

    name: str
    d_model: int
    d_vocab: int
    dtype: torch.dtype


SHAPES = (
    Shape("SmolLM2-135M, float32", 576, 49_152, torch.float32),
    Shape("Gemma-3-270M, float32", 640, 262_144, torch.float32),
    Shape("Llama-3-8B, float32", 4096, 128_256, torch.float32),
    Shape("Llama-3-8B, bfloat16", 4096, 128_256, torch.bfloat16),
)


@dataclass(frozen=True, eq=False)
class Head:
    """A random head, and states for it: `normed` [cell, site, d_model]."""

    readout: Readout
    normed: torch.Tensor

    @classmethod
    def of(cls, shape: Shape, device: str) -> Head:
        """Logits of normal distribution, with the ties of real ones left out."""
        generator = torch.Generator(device).manual_seed(0)
        size = (shape.d_vocab, shape.d_model)
        weights = torch.randn(size, generator=generator, device=device)
        weights = weights.mul_(_LOGIT_SD / shape.d_model**0.5).bfloat16().to(shape.dtype)
        states = (_CELLS, _SITES, shape.d_model)
        normed = torch.randn(states, generator=generator, device=device)
        return cls(Readout(lambda x: x, weights.T, None), normed)

    def stream(self, readout: Readout) -> Stream:
        """The model's own distribution is that of the last site."""
        final = self.normed[:, -1]
        logits = self.readout.logits(final)
        best = logits.topk(max(_RANKS), dim=-1).indices
        sought = {str(rank): best[:, rank - 1] for rank in _RANKS}
        output = Output.of(readout, len(final), lambda c, t: logits[c, t].clone())
        return Stream(output, sought, top_k=5)


@torch.inference_mode()
def measure(shape: Shape, device: str, rounds: int) -> list[str]:
    """A row of the table."""
    head = Head.of(shape, device)
    rows, every = head.normed.flatten(0, 1), slice(0, _CELLS)
    ways = {"float32": head.readout, "bfloat16": head.readout.in_parts()}
    streams = {name: head.stream(readout) for name, readout in ways.items()}
    vectors = Vectors(head.normed, every)
    jobs: dict[str, Job] = {}
    jobs |= {f"{name} product": lambda r=r: r.logits(rows) for name, r in ways.items()}
    jobs |= {f"{name} reading": lambda s=s: s.within(vectors) for name, s in streams.items()}
    seconds = round_robin({name: waited(job, device) for name, job in jobs.items()}, rounds)
    flops = 2 * len(rows) * shape.d_model * shape.d_vocab
    floor, recomputed = seconds["float32 product"], streams["bfloat16"].recomputed
    return [
        shape.name,
        *(f"{flops / min(seconds[f'{name} product']) / 1e12:.3g}" for name in ways),
        ratios(seconds["bfloat16 product"], floor),
        *(ratios(seconds[f"{name} reading"], floor) for name in ways),
        *(f"{float(s.read(vectors).outside.float().mean()):.1%}" for s in streams.values()),
        f"{recomputed.n / recomputed.n_logits:.2%}",
        f"{recomputed.worst:.2g}",
        *(errors(head, streams[name]) for name in ways),
    ]


def errors(head: Head, stream: Stream) -> str:
    """The largest error of an entropy, and how many ranks are not those of float64."""
    n_cells = max(_EXACT_ROWS // _SITES, 1)
    normed = head.normed[:n_cells]
    reading: Reading = stream.within(Vectors(normed, slice(0, n_cells)))
    logits = replace(head.readout, split=None).in_float64(normed.flatten(0, 1))
    log_q = logits.log_softmax(-1)
    entropy = -(log_q.exp() * log_q).sum(-1) / LN_2
    wrong = 0
    for seen in reading.seen.values():
        own = logits.gather(1, seen.token.unsqueeze(1))
        assert seen.n_better is not None
        wrong += int(((logits > own).sum(-1) != seen.n_better).sum())
    wrong += int((logits.topk(5).indices != reading.top_ids[:, :5]).any(-1).sum())
    return f"{float((reading.entropy_bits - entropy).abs().max()):.1e}, {wrong}"


def bench(
    device: Device = None,
    small: Annotated[bool, Parameter(help="Only the smallest head.")] = False,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Products and readings in both ways, in turn."""
    console, where = Console(stderr=True), pick_device(device)
    found = []
    for shape in SHAPES[:1] if small else SHAPES:
        with console.status(shape.name):
            found.append(measure(shape, where, rounds))
    text = _markdown(where, rounds, found)
    write_text(out / "products.md", text)
    Console().print(text, markup=False, highlight=False)


def _markdown(device: str, rounds: int, rows: list[list[str]]) -> str:
    header = (
        "head, as loaded",
        "float32 product, TFLOP/s",
        "in bfloat16 parts, TFLOP/s",
        "product, times the floor",
        "float32 reading, times the floor",
        "reading in parts, times the floor",
        "float32: read again",
        "in parts: read again",
        "logits recomputed",
        "largest error, roundings",
        "float32: entropy error (bits), wrong decisions",
        "in parts: entropy error (bits), wrong decisions",
    )
    return "\n".join(
        [
            "# A head's products in bfloat16 parts",
            "",
            f"{_CELLS * _SITES} states on {device_name(device)}; random weights stored in "
            "bfloat16, which are one part: three bfloat16 products stand for one in float32, whose "
            "TFLOP/s are given. "
            f"Times are multiples of the bare float32 product's, paired within each of {rounds} "
            "rounds: median (least to most). Errors are against float64; a decision is a rank of "
            f"the model's tokens number {', '.join(map(str, _RANKS))}, or the five best in order. "
            "Read again, in float64, which the times hold: states that products may have left "
            "outside the stated bound.",
            "",
            *markdown_table(header, rows),
            "",
            made_by("bench-products"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
