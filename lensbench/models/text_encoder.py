"""Text encoders (BERT and its kin): models that read a text both ways, as transformers has them.

They say no next token, so that no lens reads them and no bridge is needed: only their attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.checkpoints.config.encoders import ENCODERS, is_encoder
from lensbench.checkpoints.devices import pick_device
from lensbench.checkpoints.finite import require_finite
from lensbench.checkpoints.open import open_tokenizer, quiet, whole_config, with_new_weights
from lensbench.checkpoints.source import locate
from lensbench.errors import InputProblems, ModelError, Problem, refused_by_library
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.prompts.encode import NO_ROW, without_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ATTENTION = "SelfAttention"  # how the modules that make the weights are called, behind the type
_UNUSED = ("pooler.",)  # weights behind the last block, which attention does not see
See = Callable[[int, Float[Tensor, "batch head query key"]], None]


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
        longest = int(self.hf.config.max_position_embeddings)
        # RoBERTa counts positions from behind the padding's.
        return longest - (int(self.hf.config.pad_token_id) + 1) * (self.model_type == "roberta")

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

    def ids(self, text: str, where: str) -> tuple[int, ...]:
        """The tokens of a text with those that the tokenizer puts around it.

        Raises InputProblems for a text that is empty or longer than the context.
        """
        found = None
        if not text.strip():
            found = ("the text is empty", "Write one or delete the row.")
        ids = tuple(self.tokenizer(text, verbose=False).input_ids)
        if len(ids) > self.n_ctx:
            what = f"the text has {len(ids):,} tokens, the model's context holds {self.n_ctx:,}"
            found = (what, "Shorten it.")
        if missing := without_row(ids, self.d_vocab):
            found = (missing, NO_ROW)
        if found is not None:
            raise InputProblems([Problem(where, *found)])
        return ids

    def watch(self, token_ids: Sequence[Sequence[int]], see: See) -> None:
        """Run texts as one batch; `see` is handed each block's pattern when the pass is there.

        What stands behind a text is padding, which gets no attention. Memory beyond the forward
        pass: one block.
        """
        pad = self.tokenizer.pad_token_id or 0
        batch = make_batch(range(len(token_ids)), token_ids, pad_id=int(pad))
        blocks = self._attention()

        def hook_of(block: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Any) -> None:
                weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                if weights is None or weights.ndim != 4:
                    raise ModelError(f"{self.name}: block {block} gives no attention weights")
                see(block, weights)

            return hook

        hooks = [part.register_forward_hook(hook_of(i)) for i, part in enumerate(blocks)]
        try:
            with torch.inference_mode():
                self.hf(
                    input_ids=batch.token_ids.to(self.device),
                    attention_mask=batch.attention_mask.to(self.device),
                )
        finally:
            for hook in hooks:
                hook.remove()

    def watch_each(
        self,
        token_ids: Sequence[Sequence[int]],
        see: Callable[[int, int, Float[Tensor, "head query key"]], None],
        batch_tokens: int,
    ) -> None:
        """Run texts in batches; `see` is handed a text's number, a block and its pattern there,
        float32 and without padding."""
        for items in plan_batches([len(ids) for ids in token_ids], batch_tokens):

            def split(
                block: int,
                patterns: Float[Tensor, "batch head query key"],
                items: Sequence[int] = items,
            ) -> None:
                for item, pattern in zip(items, patterns, strict=True):
                    n = len(token_ids[item])  # padding stands behind
                    see(item, block, pattern[:, :n, :n].float())

            self.watch([token_ids[item] for item in items], split)

    def _attention(self) -> list[nn.Module]:
        found = [m for m in self.hf.modules() if type(m).__name__.endswith(_ATTENTION)]
        if len(found) != self.n_layers:
            raise ModelError(
                f"{self.name}: {len(found)} modules make attention weights, not one in each of "
                f"{self.n_layers} blocks. Choose from {', '.join(ENCODERS)}."
            )
        return found


def load_encoder(name: str | Path, device: str | None = None) -> TextEncoder:
    """An encoder by name, hub name that was fetched, or folder, in float32.

    Safetensors only, and no code from the model's folder.

    Raises:
        ModelError: unknown name, a model that is no encoder of `ENCODERS`, weights that are missing
            or of another shape, NaN or Inf in them.
        InputProblems: everything that is wrong with a model folder, at once.
    """
    located = locate(str(name))
    folder = located.require_folder()
    config = whole_config(folder)
    if not is_encoder(config):
        raise ModelError(
            f"{name} ({config.model_type}) is no text encoder. Choose from {', '.join(ENCODERS)}."
        )
    with quiet():
        hf = _opened(folder, config).to(pick_device(device)).eval()
        tokenizer = open_tokenizer(folder)
    require_finite(hf, str(name))
    return TextEncoder(located.public_name, located.source, hf, tokenizer, folder)


def untrained_encoder(encoder: TextEncoder, seed: int = 0) -> TextEncoder:
    """The same architecture with weights drawn anew, as before any training."""
    from transformers import AutoModel

    hf = with_new_weights(AutoModel, encoder.hf.config, seed, attn_implementation="eager")
    hf = hf.to(encoder.device).float().eval()
    name = f"{encoder.name} (untrained)"
    return TextEncoder(name, "drawn at random", hf, encoder.tokenizer)


def _opened(folder: Path, config: Any) -> PreTrainedModel:
    """The blocks of a checkpoint; a head behind them may be there or not."""
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
    return hf
