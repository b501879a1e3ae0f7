"""Text encoders (BERT and its kin): models that read a text both ways, as transformers has them.

They say no next token, so that no lens reads them and no bridge is needed: only their attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lensbench.again import by_name, cannot_go
from lensbench.checkpoints.config.encoders import ENCODERS, is_encoder
from lensbench.checkpoints.config.shape import table_context
from lensbench.checkpoints.devices import device_facts, pick_device, require_float32
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import (
    building,
    open_tokenizer,
    quiet,
    whole_config,
    with_new_weights,
)
from lensbench.checkpoints.placement import Placement, require_fit
from lensbench.checkpoints.source import locate
from lensbench.checkpoints.stored.finite import require_finite
from lensbench.errors import ModelError, refused_by_library
from lensbench.prompts.batch import make_batch
from lensbench.prompts.encode import Encoder, Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ATTENTION = "SelfAttention"  # how the modules that make the weights are called, behind the type
# Where values come from and where heads write, from the module that makes the weights.
_BERTS = ("{own}.value", "{around}.output.dense")
_PROJECTIONS = {"distilbert": ("{own}.v_lin", "{own}.out_lin")}
_UNUSED = ("pooler.",)  # weights behind the last block, which attention does not see
# What a block's attention shows: its pattern [batch, head, query, key], the values that it mixes
# [batch, pos, head, d_head], and what it puts out [batch, pos, d_model], before the residual.
Kind = Literal["pattern", "values", "output"]
See = Callable[[Kind, int, Tensor], None]


@dataclass(frozen=True)
class TextEncoder:
    """An encoder in float32 with eager attention, and its tokenizer."""

    name: str
    source: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None = None

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Attention heads of a block."""
        return int(self.hf.config.num_attention_heads)

    @property
    def n_ctx(self) -> int:
        """Longest text in tokens, special ones included."""
        return context_of(self.hf.config)

    @property
    def d_vocab(self) -> int:
        """Tokens that it has an embedding of."""
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def model_type(self) -> str:
        """As in config.json."""
        return str(self.hf.config.model_type)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.hf.device

    def encoder(self, template: Template = "plain", where: str = "prompts") -> Encoder:
        """Makes tokens out of texts, with those that the tokenizer puts around each."""
        return Encoder(self.tokenizer, self.n_ctx, template, where, self.d_vocab, closed=True)

    @property
    def rope_switch(self) -> None:
        """Batches need not be parted by length."""
        return None

    def facts(self) -> dict[str, Any]:
        """The model's part of a manifest, besides what its `ref` says."""
        return {
            "name": self.name,
            "source": self.source,
            "model_type": self.model_type,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": int(self.hf.config.hidden_size),
            "d_vocab": self.d_vocab,
            "n_params": sum(weight.numel() for weight in self.hf.parameters()),
            "dtype": "float32",
            **device_facts(self.device),
        }

    def identity(self) -> dict[str, Any]:
        """Its facts and the hashes of its files. Raises ModelError for one given as an object."""
        if self.folder is None:
            raise cannot_go(self.name)
        return self.facts() | hashes(self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the model is loaded anew: see `again.py`."""
        facts = self.identity()
        called = {"name": self.name, "source": self.source}
        given = {"folder": self.folder, "device": self.device.type, **called}
        return by_name(_load_again, given, facts)

    def watch(
        self, token_ids: Sequence[Sequence[int]], see: See, kinds: Sequence[Kind] = ("pattern",)
    ) -> None:
        """Run texts as one batch; `see` is handed each block's tensors when the pass is there.

        What stands behind a text is padding, which gets no attention. Memory beyond the forward
        pass: one block. Raises ModelError where blocks do not give attention weights.
        """
        pad = self.tokenizer.pad_token_id or 0
        batch = make_batch(range(len(token_ids)), token_ids, pad_id=int(pad))
        hooks = [
            module.register_forward_hook(self._hook(kind, block, see))
            for block, parts in enumerate(self.parts)
            for kind, module in parts.items()
            if kind in kinds
        ]
        try:
            with torch.inference_mode():
                self.hf(
                    input_ids=batch.token_ids.to(self.device),
                    attention_mask=batch.attention_mask.to(self.device),
                )
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, kind: Kind, block: int, see: See) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            if kind == "pattern":
                output = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                if output is None or output.ndim != 4:
                    raise ModelError(f"{self.name}: block {block} gives no attention weights")
            if kind == "values":
                output = output.unflatten(-1, (self.n_heads, -1))
            see(kind, block, output)

        return hook

    @cached_property
    def parts(self) -> list[dict[Kind, nn.Module]]:
        """Of each block the modules whose outputs can be seen.

        Raises ModelError for a model that is not built as those of `ENCODERS` are.
        """
        found = [n for n, m in self.hf.named_modules() if type(m).__name__.endswith(_ATTENTION)]
        if len(found) != self.n_layers:
            raise ModelError(
                f"{self.name}: {len(found)} modules make attention weights, not one in each of "
                f"{self.n_layers} blocks. Choose from {', '.join(ENCODERS)}."
            )
        values, output = _PROJECTIONS.get(self.model_type, _BERTS)
        return [
            {
                "pattern": self.hf.get_submodule(name),
                "values": self.hf.get_submodule(values.format(own=name)),
                "output": self.hf.get_submodule(
                    output.format(own=name, around=name.rpartition(".")[0])
                ),
            }
            for name in found
        ]


def context_of(config: Any) -> int:
    """Longest text of a text encoder in tokens, special ones included."""
    longest = table_context(config)
    assert longest is not None  # every type of `ENCODERS` has one
    return longest


def require_encoder_loadable(folder: Path, device: str | None = None) -> None:
    """Raise ModelError, with the sum, where an encoder is too large; no weight is read."""
    from transformers import AutoModel

    config = whole_config(folder)
    with building(config):
        n_params = int(AutoModel.from_config(config).num_parameters())
    require_fit(n_params, "float32", Placement.of(device), always=True)


def load_encoder(name: str | Path, device: str | None = None) -> TextEncoder:
    """An encoder by name, hub name that was fetched, or folder, in float32.

    Safetensors only, and no code from the model's folder.

    Raises:
        ModelError: unknown name, a model that is no encoder of `ENCODERS`, or too large (with the
            arithmetic), weights that are missing or of another shape, NaN or Inf in them.
        InputProblems: everything that is wrong with a model folder, at once.
    """
    located = locate(str(name))
    folder = located.require_folder()
    config = whole_config(folder)
    if not is_encoder(config):
        raise ModelError(
            f"{name} ({config.model_type}) is no text encoder. Choose from {', '.join(ENCODERS)}."
        )
    require_encoder_loadable(folder, device)
    with quiet():
        hf = open_blocks(folder, config)[0].to(pick_device(device)).eval()
        require_float32(hf.device)
        tokenizer = open_tokenizer(folder)
    require_finite(hf, str(name))
    return TextEncoder(located.public_name, located.source, hf, tokenizer, folder)


def _load_again(folder: Path, device: str, name: str, source: str) -> TextEncoder:
    return replace(load_encoder(folder, device), name=name, source=source)


def untrained_encoder(encoder: TextEncoder, seed: int = 0) -> TextEncoder:
    """The same architecture with weights drawn anew, as before any training."""
    from transformers import AutoModel

    hf = with_new_weights(AutoModel, encoder.hf.config, seed, attn_implementation="eager")
    hf = hf.to(encoder.device).float().eval()
    name = f"{encoder.name} (untrained)"
    return TextEncoder(name, "drawn at random", hf, encoder.tokenizer)


def open_blocks(folder: Path, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """The blocks of a checkpoint, and weights behind them that it does not hold: those are random.

    A head may be there or not. Raises ModelError where weights of the blocks are missing.
    """
    from transformers import AutoModel

    with refused_by_library(f"{folder}: its weights cannot be read", "Fetch the model again."):
        hf, found = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = [name for name in sorted(found["missing_keys"]) if not name.startswith(_UNUSED)]
    wrong = [*missing, *(str(name) for name in found["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"{folder}: weights are missing, or of another shape, and would be random: "
            f"{', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}. Fetch the model again."
        )
    return hf, sorted(found["missing_keys"])
