"""What a placement study compares: from an `analysis.toml` of kind "placement"."""

from __future__ import annotations

from lensbench.checkpoints.ref import Bits
from lensbench.quantized.adapters.spec import Blocks, Dropout, Targets
from lensbench.quantized.data.spec import Sources
from lensbench.quantized.style import Style
from lensbench.quantized.training.spec import Epochs, MaxSteps, PeakLearningRate
from lensbench.spec import Count, Device, Seed, Spec


class PlacementSpec(Spec):
    """Adapters with the same number of trained parameters, in different blocks, on the same data.

    The suggested blocks are set against as many others that the seed draws, new ones in every
    repetition; against the complement; and against all blocks.
    """

    alone = "one adapter is trained after another"

    model: str
    """The base: alias, hub name or folder."""
    blocks: Blocks
    data: Sources = ("docstrings", "general")
    limit: Count | None = None
    """Pairs taken of each source."""
    test_limit: Count = 200
    """Held-out pairs that are measured."""
    repetitions: Count = 3
    """Of every placement, each with a seed of its own."""
    rank: Count = 20
    """In the suggested blocks. Elsewhere blocks x rank is the same, and must be whole."""
    alpha_per_rank: Count = 2
    """The update is this times B A."""
    targets: Targets = "q,k,v,o"
    dropout: Dropout = 0.05
    style: Style = "alpaca"
    """How an instruction is put to the model."""
    train_bits: Bits | None = None
    """Of the base. Default: what its name says, or 32."""
    epochs: Epochs = 1
    max_steps: MaxSteps = None
    batch_size: Count = 8
    """Examples in a step."""
    test_batch_size: Count = 24
    """Held-out pairs measured together."""
    peak_learning_rate: PeakLearningRate = 2e-4
    max_length: Count = 256
    """Tokens of an example; a longer response is cut."""
    seed: Seed = 0
    """Of split, drawn blocks, adapters, order and dropout."""
    device: Device = None
