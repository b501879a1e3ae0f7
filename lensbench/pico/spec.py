"""How large a small model is, and how it is trained: three presets, and what one may change."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.spec import ARGUMENT, Count, Device, Numbers, Positive, Seed, Spec

Preset = Literal["tiny", "small", "full"]
_MLP_ROUNDED = 64


@dataclass(frozen=True)
class Plan:
    """A model and its training, whole.

    `per_doubling`: checkpoints that are kept each time the steps double.
    """

    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    steps: int
    batch_size: int  # sequences in a step
    peak_learning_rate: float
    dropout: float  # of attention weights, and of what an MLP writes
    per_doubling: int
    repeated_share: float = 0.0  # of sequences: one passage of the text over and over

    @property
    def max_position(self) -> int:
        """Tokens that the rotary positions reach: a third more than are trained on."""
        return self.context * 4 // 3

    @property
    def mlp_width(self) -> int:
        """Of the gated MLP: 8/3 of the width, which costs what a plain one of 4 does, rounded up
        (Shazeer 2020, arXiv 2002.05202)."""
        return -(-8 * self.width // (3 * _MLP_ROUNDED)) * _MLP_ROUNDED

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.batch_size * self.context

    @property
    def kept(self) -> list[int]:
        """Steps at which the model is measured and kept: 0, the last, and from 2 on evenly in log2.

        The first step of a warm-up has a learning rate of 0 and changes nothing.
        """
        n = self.per_doubling
        found = {0, self.steps}
        while (step := round(2 ** (n / self.per_doubling))) < self.steps:
            found.add(step)
            n += 1
        return sorted(found)


PRESETS: dict[Preset, Plan] = {
    "tiny": Plan(
        width=64,
        layers=3,
        heads=4,
        context=128,
        vocabulary=512,
        steps=4000,
        batch_size=16,
        peak_learning_rate=4e-3,
        dropout=0.0,
        per_doubling=2,
        repeated_share=0.5,  # a curriculum: of text alone induction needs far more tokens
    ),
    "small": Plan(
        width=256,
        layers=4,
        heads=4,
        context=384,
        vocabulary=8192,
        steps=2000,
        batch_size=16,
        peak_learning_rate=1e-3,
        dropout=0.1,
        per_doubling=2,
    ),
    "full": Plan(
        width=448,
        layers=8,
        heads=7,
        context=384,
        vocabulary=16384,
        steps=20_000,
        batch_size=64,
        peak_learning_rate=6e-4,
        dropout=0.1,
        per_doubling=1,
    ),
}

_SIZED = "Default: the preset's."


class Pretraining(Spec):
    """A small model and the text that it is trained on."""

    preset: Preset = "tiny"
    """tiny: minutes on two cores, to induction heads and, of python-docs, a validation loss below 3
    nats. small: an hour. full: width 448, 8 layers, 7 heads, context 384, for an accelerator."""
    corpus: Annotated[str, Field(exclude=True)] = "python-docs"
    """python-docs (what the installed Python says about itself), a text file, a folder of .txt, .md
    and .rst, or hub:OWNER/NAME[/SPLIT][:COLUMN], a data set that `lensbench pull` fetched."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the documents to train on, so much is read."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the corpus, so much is kept for validation, whole documents."""
    width: Annotated[Count | None, Field(exclude=True, description=_SIZED)] = None
    layers: Annotated[Count | None, Field(exclude=True, description=_SIZED)] = None
    heads: Annotated[Count | None, Field(exclude=True, description=_SIZED)] = None
    context: Annotated[int | None, Field(exclude=True, ge=16, description=_SIZED)] = None
    vocabulary: Annotated[int | None, Field(exclude=True, ge=300, description=_SIZED)] = None
    steps: Annotated[Count | None, Field(exclude=True, description=_SIZED)] = None
    batch_size: Annotated[Count | None, Field(exclude=True)] = None
    """Sequences in a step. Default: the preset's."""
    peak_learning_rate: Annotated[Positive | None, Field(exclude=True)] = None
    """At the end of the warm-up. Default: the preset's."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of steps in which the learning rate rises; then it falls by a cosine to zero."""
    dropout: Annotated[float | None, Field(exclude=True, ge=0, lt=1)] = None
    """Of attention weights, and of what an MLP writes. Default: the preset's."""
    repeated_share: Annotated[float | None, Field(exclude=True, ge=0, lt=1)] = None
    """Share of the training sequences that are a curriculum: one passage of the text, four times or
    more. Held-out text has none. Default: the preset's, 0 but for tiny."""
    validation_tokens: Count = 16_384
    """Held-out tokens that the validation loss is of."""
    checkpoint_every: Annotated[Count, Field(exclude=True)] = 100
    """Steps between checkpoints that an interrupted run goes on from."""
    device: Device = None

    @property
    def plan(self) -> Plan:
        """The preset, changed where a value is given."""
        own = {field.name: getattr(self, field.name, None) for field in fields(Plan)}
        given = {name: value for name, value in own.items() if value is not None}
        return replace(PRESETS[self.preset], **given)

    def settings(self) -> dict[str, Any]:
        """The plan in full, so that a preset may change later."""
        return super().settings() | vars(self.plan)

    def problems(self) -> list[Problem]:
        plan = self.plan
        if plan.width % (2 * plan.heads):
            what = f"{plan.heads} heads do not share {plan.width} evenly, in pairs of dimensions"
            remedy = f"Give a multiple of {2 * plan.heads}."
            return [Problem("width", what, remedy)]
        return []


class PicoSpec(Pretraining):
    """One training. The same spec and text give the same model."""

    out: Annotated[Path, Parameter(("--out", "-o")), Field(exclude=True)]
    """Folder of the record and of the model at each step that is kept (step-000000, ...)."""
    seed: Seed = 0
    """Of the first weights, the order of the text and the dropout."""

    @property
    def name(self) -> str:
        """What the model is called: the preset and the seed."""
        return f"pico-{self.preset}-seed-{self.seed}"


class SeedsSpec(Pretraining):
    """Trainings that differ in their seed alone."""

    out: Annotated[Path, Parameter(("--out", "-o")), Field(exclude=True)]
    """Folder of the record and of the model at each step that is kept (step-000000, ...); of
    several seeds each has a folder of its own in it, seed-0, seed-1, ..."""
    seed: Numbers = (0,)
    """Of the first weights, the order of the text and the dropout; several as 0-2 or 0,1,5."""

    @property
    def trainings(self) -> list[PicoSpec]:
        """Each of them, in the order of the seeds."""
        several = len(self.seed) > 1
        return [
            PicoSpec(
                out=self.out / f"seed-{seed}" if several else self.out,
                seed=seed,
                **self.shared(Pretraining),
            )
            for seed in self.seed
        ]

    def problems(self) -> list[Problem]:
        """No seed, and what is wrong with a training."""
        if self.seed:
            return super().problems()
        return [*super().problems(), Problem("seed", "there is none", "Give one, such as 0.")]


class LineageSizes(Spec):
    """How much is measured of each model that a training kept."""

    tokens: Count = 6_000
    """Held-out tokens that the linear lens of a step is fitted to."""
    choose_tokens: Count = 512
    """Tokens on which the strength of each layer's ridge is chosen."""
    test_tokens: Count = 2_000
    """Tokens that the figures are of."""
    window: Annotated[Count, Field(ge=16)] = 96
    """Tokens that are read of a document, from its beginning."""
    repeats: Count = 8
    """Sequences of random tokens of the held-out text, each of them four times in a row."""
    untrained: Annotated[int, Field(ge=2)] = 20
    """Models with weights drawn anew, of which the untrained band is made."""
    device: Device = None


class AnalyseSpec(LineageSizes):
    """Which trainings are looked into, and where the record goes."""

    runs: Annotated[tuple[Path, ...], Field(exclude=True, min_length=1), ARGUMENT]
    """Folders of `lensbench pico train`, of one seed or several; or single steps in them."""
    out: Annotated[Path, Parameter(("--out", "-o")), Field(exclude=True)]
    """Folder of the record and its report."""


class PicoStudySpec(LineageSizes, Pretraining):
    """A small model trained from several seeds, and every step of it measured."""

    seeds: Count = 3
    """Trainings, of the seeds 0, 1, ..."""
