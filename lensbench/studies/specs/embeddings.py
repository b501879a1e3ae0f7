"""What a study of embeddings measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.spec import Device, Seed, Spec, repeated
from lensbench.studies.specs.lens import BatchTokens

ENCODER = "all-minilm-l6-v2"


class EmbeddingsSpec(Spec):
    """What the angles between texts' vectors say, and at which layer a word's senses part."""

    encoders: Annotated[
        tuple[str, ...], Field(exclude=True), Parameter("--encoder", consume_multiple=True)
    ] = (ENCODER,)
    """Sentence encoders of sentence-transformers, each an alias, hub name or folder."""
    contextual: Annotated[
        tuple[str, ...], Field(exclude=True), Parameter("--contextual", consume_multiple=True)
    ] = ()
    """Causal models or text encoders whose layers are read at words of two senses."""
    pairs: str = "published"
    """Pairs of texts: the shipped ones, or a .csv with columns id, a, b (and published)."""
    rated: Annotated[tuple[str, ...], Parameter("--rated", consume_multiple=True)] = ()
    """Word pairs that people have rated: wordsim353, simlex999 (both in place, from gensim), or a
    file of two words and a number with tabs between."""
    senses: str = "senses"
    """Sentences of words of two senses: the shipped 256, or a .csv with columns word, kind, group,
    sentence."""
    umap: Annotated[bool, Parameter(negative="--no-umap")] = False
    """Also place the texts by UMAP (umap-learn), besides principal components."""
    seed: Seed = 0
    """Of UMAP, of the bootstrap over rated pairs, and of untrained models."""
    batch_tokens: BatchTokens = None
    device: Device = None

    def problems(self) -> list[Problem]:
        """Models that stand twice, or none at all."""
        found = [
            problem
            for key in ("encoders", "contextual", "rated")
            for problem in repeated(key, getattr(self, key))
        ]
        if not self.encoders and not self.contextual:
            what = "there is no model to read"
            found.append(Problem("encoders", what, "Name an encoder, or a contextual model."))
        return found
