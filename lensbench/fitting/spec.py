"""What a lens is fitted to, and on what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.device import is_spread
from lensbench.errors import Problem
from lensbench.lens.fitted.place import Method
from lensbench.models.spec import MODEL_HELP, Dtype
from lensbench.spec import ARGUMENT, Count, Devices, Positive, Spec

_OF: dict[Method, tuple[str, ...]] = {
    "tuned": ("start", "learning_rate", "epochs"),
    "jacobian": ("jacobian_tokens",),
}  # options of one method alone


class FitSpec(Spec):
    """How a lens is fitted. The same spec, corpus and weights give the same bytes."""

    model: Annotated[str, Field(exclude=True, description=MODEL_HELP), ARGUMENT]
    method: Annotated[Method, Parameter("--lens")] = "linear"
    """linear: ridge regression from each layer's state to the last, in minutes. tuned: trained
    from there until its distribution is the model's, several times as long. jacobian: the mean
    derivative of the last layer's states by each layer's (Gurnee et al. 2026), 2 x parameters x
    width operations a token: half an hour on smollm2-135m with one core."""
    corpus: Annotated[str, Field(exclude=True)] = "python-docs"
    """python-docs (what the installed Python says about itself), model or model:SEED (what the
    model itself writes, at temperature 1), a text file, a folder of .txt, .md and .rst, or
    hub:OWNER/NAME[/SPLIT][:COLUMN], a data set that `lensbench pull` fetched."""
    tokens: Count = 30_000
    """Tokens that the maps are fitted to."""
    choose_tokens: Count = 256
    """Tokens on which the strength of each layer's ridge is chosen, and a training is ended."""
    test_tokens: Count = 768
    """Tokens of text seen by neither, which the figures are of."""
    window: Annotated[Count, Field(ge=16)] = 128
    """Tokens that are read of a document, from its beginning."""
    batch_tokens: Count = 512
    """Tokens in one forward pass."""
    also: Annotated[str | None, Field(exclude=True)] = None
    """Another corpus, on which the lens is measured and not fitted: does it hold there?"""
    no_untrained: bool = False
    """Leave out the control that is fitted to a model of this shape with random weights: it takes
    two passes over the text and the memory of a second model."""
    directions: Annotated[int, Field(ge=0)] = 12
    """Directions that are removed from the states of three layers, to see whether what moves the
    lens moves the model; 0 leaves this out."""
    start: Literal["linear", "identity"] = "linear"
    """Of a tuned lens: the map that its training begins with."""
    learning_rate: Annotated[Positive, Field(le=1)] = 3e-4
    """Of a tuned lens: peak learning rate of Adam; it falls to 0."""
    epochs: Count = 2
    """Of a tuned lens: how often its training goes over the tokens at most."""
    jacobian_tokens: Count = 1_280
    """Of a jacobian lens: how many of the tokens have their Jacobians made (ten texts; it gains
    little beyond a hundred). The linear lens beside it is fitted to all."""
    dtype: Dtype = None
    device: Devices = None

    def problems(self) -> list[Problem]:
        """Options of another method."""
        fields = type(self).model_fields
        spread: list[Problem] = []
        if self.method == "jacobian" and self.device is not None and is_spread(self.device):
            what = "its gradients go through weights that stay where they are computed with"
            spread = [Problem("device", what, "Name one device, or take --lens linear.")]
        return spread + [
            Problem(
                name,
                f"it is an option of --lens {method}",
                f"Give that, or leave --{name.replace('_', '-')} out.",
            )
            for name, method in self._of_others().items()
            if getattr(self, name) != fields[name].default
        ]

    def settings(self) -> dict[str, Any]:
        """Without the options of another method, which decide nothing."""
        others = self._of_others()
        return {key: value for key, value in super().settings().items() if key not in others}

    def _of_others(self) -> dict[str, Method]:
        return {
            name: method for method, own in _OF.items() if method != self.method for name in own
        }
