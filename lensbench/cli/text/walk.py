"""Follow one text through a whole model, on one interactive page.

Text, pieces, ids, embedding vectors and their neighbours, rotary angles, the attention of every
head, what attention and MLP of each block write, the residual stream, the logit lens at every
layer, logits, probabilities under temperature and top-p, the token that is drawn, and what each
part of the model added to its logit. Every number is the model's own, every step has a sentence,
its formula and its shapes. One file, which opens offline, on a phone and in the dark.

Examples:

    lensbench walk smollm2-135m "The cat sat on the mat."

    lensbench walk smollm2-135m "The capital of Germany is" -o berlin.html

    lensbench walk gemma3-270m "The cat sat on the mat." -o cat.html --force
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import interruptible, literal, loaded, messages, note, say
from lensbench.errors import Collected, Problem
from lensbench.models.spec import LoadSpec
from lensbench.spec import ARGUMENT


class WalkVerb(LoadSpec):
    """A model and a text."""

    text: Annotated[str, ARGUMENT, Field(description="A sentence or two: at most 64 tokens.")]
    out: Annotated[Path, Parameter(("--out", "-o"))] = Path("walk.html")
    """The page."""
    force: bool = False
    """Write over a file that is there."""

    def problems(self) -> list[Problem]:
        """A text that is empty, before a model is loaded for it."""
        empty = [] if self.text.strip() else [Problem("text", "it is empty", "Give a sentence.")]
        return empty + super().problems()


def walk(spec: Annotated[WalkVerb, Parameter("*")]) -> int:
    from lensbench.checkpoints.ref import model_refs
    from lensbench.walkthrough.files import free_path

    found = Collected()
    with found:
        free_path(spec.out, spec.force)
    with found:
        model_refs([spec.model])
    found.raise_any()
    model = loaded(spec)
    from lensbench.walkthrough.result import walk as walked

    with (
        interruptible(kept=False),
        messages.status(f"following the text through {literal(model.name)}"),
    ):
        path = walked(model, spec.text).save(spec.out, spec.force)
    say(path)
    note(f"{path.stat().st_size / 1e6:.1f} MB; open it in any browser")
    return 0
