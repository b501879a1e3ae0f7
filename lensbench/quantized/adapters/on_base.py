"""PEFT's model whose base is the base whenever the adapter is switched off."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


class OnBase(PeftModel):
    """An adapter on a model. PEFT writes trained biases over the base's and leaves them there."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig) -> None:
        trained = getattr(config, "bias", "none") != "none"
        biases = [p for name, p in model.named_parameters() if trained and _is_bias(name)]
        kept = [(bias, bias.detach().clone()) for bias in biases]
        super().__init__(model, config)
        self._base_biases: list[tuple[nn.Parameter, Tensor]] = kept

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base itself, biases included. Afterwards the adapter is as trainable as it was."""
        trainable = [(p, p.requires_grad) for p in self.parameters()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
            disabled = super().disable_adapter()
            disabled.__enter__()
        self._swap_biases()
        try:
            yield
        finally:
            self._swap_biases()
            disabled.__exit__(None, None, None)
            for parameter, was in trainable:
                if parameter.requires_grad != was:
                    parameter.requires_grad_(was)

    def unload(self) -> Any:
        """The model as it was before."""
        for bias, own in self._base_biases:
            bias.data = own
        return self.base_model.unload()

    def _swap_biases(self) -> None:
        """Exchange the biases that are in place for those that are kept."""
        for i, (bias, kept) in enumerate(self._base_biases):
            self._base_biases[i] = (bias, bias.data)
            bias.data = kept


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith(".bias")
