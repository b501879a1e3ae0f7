"""What a lens run measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, PlainSerializer

from lensbench.checkpoints.ref import FORM
from lensbench.errors import Problem
from lensbench.lens.registry import LENSES, known, lens_name, named_twice
from lensbench.models.sites import STREAM
from lensbench.models.spec import Dtype
from lensbench.prompts.encode import Template
from lensbench.prompts.sets import PromptSet
from lensbench.records.schema.lens import ON_REQUEST
from lensbench.spec import ARGUMENT, HIDDEN, Count, Devices, Spec, one_of, repeated
from lensbench.studies.specs.fits import Fits, fit_problems

# What every spec that puts prompts through a lens says of them.
Prompts = Annotated[
    str | InstanceOf[PromptSet],
    BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given),
    Parameter(accepts_keys=False, n_tokens=1, metavar="STR"),
    # A run records the set's name and hash.
    Field(
        exclude=True,
        description="A shipped set (facts, general, python, sentences), a .csv, .jsonl or .json.",
    ),
]
Limit = Annotated[
    Count | None,
    Field(
        description="Base prompts, spread over relations, with the rows that go with each. Raised "
        "later, the rest is measured and what is there stays."
    ),
]
Relations = Annotated[
    tuple[str, ...],
    Parameter("--relation"),
    Field(description="Only these relations; repeatable."),
]
Sites = Annotated[
    tuple[Annotated[str, one_of(STREAM)], ...],
    HIDDEN,  # a command line has --mid
    Field(description="States to read: embed, resid_mid (after attention), resid_post."),
]
Templated = Annotated[
    Template, Field(description="chat: the prompt as the start of a chat answer.")
]
BatchTokens = Annotated[
    Count | None,
    Field(description="Tokens in one forward pass. Default: 512 on a CPU, up to 2,048 on a GPU."),
]
Products = Annotated[
    Literal["float32", "bfloat16", "auto"],
    Field(
        exclude_if=lambda products: products == "float32",
        description="How the head is multiplied. bfloat16: in exact parts, summed in float32 by "
        "matrix units; ranks and top tokens are float64's. Slower on a CPU. auto: by a measurement "
        "on this machine.",
    ),
]
Models = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        exclude=True,
        description=f"Each one an alias, hub name or folder: {FORM}.",
    ),
    ARGUMENT,
]
DEFAULT_SITES = ("embed", "resid_post")


class RunSpec(Spec):
    """A lens over many prompts. The same spec, prompts and weights give the same records."""

    models: Models
    prompts: Prompts = "facts"
    limit: Limit = None
    relations: Relations = ()
    lenses: Annotated[
        tuple[Annotated[str, AfterValidator(known), PlainSerializer(lens_name)], ...],
        Field(min_length=1),
        Parameter("--lens"),
    ] = tuple(LENSES)
    """final, next, raw, linear, tuned, jacobian (see `lensbench fit`) or a lens' folder, also of
    the tuned-lens project or a saved Jacobian lens; repeatable. next and raw read base prompts
    only."""
    fit: Fits = {}  # noqa: RUF012 (pydantic copies it)
    """Lenses that are fitted first, in `lenses/` beside the records: `[fit.linear]`, with options
    of `lensbench fit` as keys."""
    sites: Sites = DEFAULT_SITES
    top_k: Count = 5
    """Top tokens kept of each reading."""
    metrics: Annotated[
        tuple[Annotated[str, one_of(ON_REQUEST)], ...],
        Parameter("--metric"),
        Field(exclude_if=lambda metrics: not metrics),
    ] = ()
    """js_bits, beside those that are always measured: about twice the time for reading."""
    products: Products = "float32"
    heatmap_prompts: Annotated[int, Field(ge=0)] = 12
    """Base prompts that are read at every position."""
    template: Templated = "plain"
    batch_tokens: BatchTokens = None
    dtype: Dtype = None
    device: Devices = None
    keep_residuals: Annotated[bool, Field(exclude_if=lambda kept: not kept)] = False
    """Keep the residual vectors at the last positions, for `lensbench diff`."""

    def problems(self) -> list[Problem]:
        found = repeated("models", self.models) + named_twice(self.lenses, "lenses")
        if not {"embed", "resid_post"} <= set(self.sites):
            what = f"{', '.join(self.sites)} leaves out embed or resid_post"
            found.append(Problem("sites", what, "Milestones are read there: name both."))
        return found + fit_problems(self.fit, self.lenses)
