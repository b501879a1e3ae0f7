"""What a lens is fitted to, and on what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.lens.fitted.place import Method
from lensbench.models.spec import MODEL_HELP, Dtype
from lensbench.spec import ARGUMENT, Count, Device, Positive, Spec

TOKENS: dict[Method, int] = {"linear": 30_000, "tuned": 30_000, "jacobian": 1_280}
_OF_TUNED = ("start", "learning_rate", "epochs")


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
    model itself writes, at temperature 1), a text file, or a folder of .txt, .md and .rst."""
    tokens: Count | None = None
    """Tokens that the maps are fitted to. Default: 30,000, of a jacobian lens 1,280 (ten texts; it
    gains little beyond a hundred)."""
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
    dtype: Dtype = None
    device: Device = None

    @property
    def n_tokens(self) -> int:
        """Tokens that the maps are fitted to."""
        return TOKENS[self.method] if self.tokens is None else self.tokens

    def problems(self) -> list[Problem]:
        """Options of another method."""
        fields = type(self).model_fields
        return [
            Problem(
                name,
                "it is an option of --lens tuned",
                f"Give that, or leave --{name.replace('_', '-')} out.",
            )
            for name in _OF_TUNED
            if self.method != "tuned" and getattr(self, name) != fields[name].default
        ]

    def settings(self) -> dict[str, Any]:
        """Without the options of another method, which decide nothing."""
        others = () if self.method == "tuned" else _OF_TUNED
        own = super().settings() | {"tokens": self.n_tokens}
        return {key: value for key, value in own.items() if key not in others}
