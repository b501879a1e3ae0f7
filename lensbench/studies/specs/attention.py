"""What an attention run measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.models.spec import Dtype
from lensbench.records.schema.attention import READ, WEIGHTINGS
from lensbench.spec import Count, Devices, Seed, Spec, one_of, repeated
from lensbench.studies.specs.lens import BatchTokens, Limit, Models, Prompts, Relations, Templated

SENTENCES = "sentences"  # the shipped set


class AttentionSpec(Spec):
    """What every head looks at, over many prompts.

    The same spec, prompts and weights give the same records.
    """

    models: Models
    prompts: Prompts = "facts"
    limit: Limit = None
    relations: Relations = ()
    conditions: Annotated[
        tuple[Annotated[str, one_of(READ)], ...],
        Field(min_length=1),
        Parameter("--condition"),
    ] = tuple(READ)
    """text (the prompts), repeated (random tokens several times over: induction); repeatable. Text
    encoders read the texts alone."""
    nulls: Annotated[bool, Parameter(negative="--no-nulls")] = True
    """Read the same under its nulls too (random attention, shuffled tokens, an untrained model):
    heads get names only by what is beyond them. Takes four times as long. Of a text encoder the
    untrained one is read."""
    ablate: Annotated[int, Field(ge=0)] = 0
    """Prompts on which each head in turn is replaced by its mean, and the loss measured; with
    phenomena also so many sentences, and what is lost of the words asked about."""
    weightings: Annotated[
        tuple[Annotated[str, one_of(WEIGHTINGS)], ...],
        Field(min_length=1),
        Parameter("--weighting"),
    ] = tuple(WEIGHTINGS)
    """plain (the pattern), moved (each weight times the length of what it moves); repeatable."""
    keep: Annotated[tuple[str, ...], Parameter("--keep-pattern")] = ()
    """A prompt whose whole patterns are kept, by its id; repeatable."""
    phenomena: bool = False
    """Ask every head which word belongs to another, and an untrained model too."""
    sentences: str = SENTENCES
    """With --phenomena: a prompt set with gold pairs. Default: the shipped 145 sentences."""
    n_repeated: Count = 8
    """Sequences of the condition `repeated`."""
    repeat_tokens: Annotated[int, Field(ge=2)] = 25
    """Random tokens of each, which stand in it four times over."""
    seed: Seed = 0
    """Of the random tokens, of the untrained model, and of the halves of the sentences."""
    template: Templated = "plain"
    batch_tokens: BatchTokens = None
    dtype: Dtype = None
    device: Devices = None

    @property
    def reads_untrained(self) -> bool:
        """Whether a second model, with weights drawn anew, is read too."""
        return self.nulls or self.phenomena

    def problems(self) -> list[Problem]:
        """Names that stand twice, and sentences that nothing is asked about."""
        found = [
            problem
            for key in ("models", "conditions", "weightings", "keep")
            for problem in repeated(key, getattr(self, key))
        ]
        if self.sentences != SENTENCES and not self.phenomena:
            what = "it has no effect without phenomena"
            found.append(Problem("sentences", what, "Ask for them too, or leave it out."))
        return found
