"""What an adapter study compares: from an `analysis.toml` of kind "adapter"."""

from __future__ import annotations

from lensbench.checkpoints.ref import Bits
from lensbench.quantized.adapters.spec import Alpha, Blocks, Dropout, Rank, Targets
from lensbench.quantized.data.spec import Sources
from lensbench.quantized.style import Style
from lensbench.quantized.training.spec import Epochs, PeakLearningRate
from lensbench.spec import Count, Device, Seed, Spec


class AdapterSpec(Spec):
    """One model: base against adapter against retrieval against both, on held-out pairs."""

    model: str
    """Alias, hub name or folder."""
    data: Sources = ("docstrings", "general")
    limit: Count | None = None
    """Pairs taken of each source."""
    test_limit: Count = 100
    """Held-out pairs that are asked."""
    test_batch_size: Count = 24
    """Of them, asked together."""
    bits: Bits | None = None
    """Of the model that answers. Default: what its name says, or 8."""
    train_bits: Bits = 32
    """Of the base that the adapter is trained on."""
    style: Style = "alpaca"
    """How an instruction is put to the model."""
    blocks: Blocks = "all"
    targets: Targets = "q,k,v,o"
    rank: Rank = 8
    alpha: Alpha = 16
    dropout: Dropout = 0.05
    epochs: Epochs = 2
    peak_learning_rate: PeakLearningRate = 2e-4
    batch_size: Count = 8
    """Examples in a step of training."""
    cache_prefix: bool = False
    """Compute what enters the lowest adapted block once: the same losses in less time."""
    top_k: Count = 1
    """Documents to retrieve."""
    max_new_tokens: Count = 96
    """Length of an answer."""
    seed: Seed = 0
    """Of split, adapter, order and dropout."""
    device: Device = None
