"""Tiny random checkpoints of the real model classes, one row per family.

To add a family to every parity, batch, gate and benchmark test: add one row to `TINY`. Importing
this module imports no torch, so that tests without a model stay quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from lensbench.models.model import LensModel

SENTENCES = (
    "The capital of Germany is Berlin.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "The river Rhine flows through Germany, France and the Netherlands.",
    "The chemical symbol of gold is Au and the opposite of hot is cold.",
    "People in Brazil speak Portuguese. Berlin is the capital of Germany.",
    "Paris is the capital of France. Rome is the capital of Italy.",
)
# Different lengths in every tokenizer; the longest is longer than every sliding window below.
PROMPTS = (
    "The capital of Germany is",
    "Rome",
    "The chemical symbol of gold is Au and the opposite of hot is",
    "The river Rhine flows through Germany, France and",
)


@dataclass(frozen=True)
class Tiny:
    """One family: its config, and where its own Hugging Face modules stand.

    `ln2` is the norm that first reads the stream after attention; None where attention and MLP
    read the same residual. `tokenizer` is a key of `TOKENIZERS`.
    """

    model_type: str
    fields: dict[str, Any]
    tokenizer: str
    backbone: str = "model"
    blocks: str = "layers"
    final_norm: str = "norm"
    ln1: str = "input_layernorm"
    ln2: str | None = "post_attention_layernorm"
    norm: str = "RMS"
    logit_std: float = 3.0


_DECODER = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GQA = _DECODER | {"num_key_value_heads": 2}
_GEMMA = _GQA | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_GRANITE = {
    "logits_scaling": 4.0,
    "residual_multiplier": 0.5,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
}
_GPT2 = {"vocab_size": 390, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}

TINY: dict[str, Tiny] = {
    "llama": Tiny("llama", _GQA, "spaces"),
    "llama3": Tiny("llama", _GQA | {"rope_parameters": _LLAMA3_ROPE}, "bytes+bos"),
    "mistral": Tiny("mistral", _GQA | {"sliding_window": 4}, "spaces"),
    # Logits beyond the cap of 30, or forgetting it would not show; and a head of its own, because
    # a tied one of that size would make the embedding outweigh all blocks.
    "gemma2": Tiny(
        "gemma2",
        _GEMMA | {"tie_word_embeddings": False},
        "spaces",
        ln2="pre_feedforward_layernorm",
        logit_std=12.0,
    ),
    "gemma3_text": Tiny("gemma3_text", _GEMMA, "spaces", ln2="pre_feedforward_layernorm"),
    "qwen3": Tiny("qwen3", _GQA | {"head_dim": 8, "tie_word_embeddings": True}, "bytes"),
    "gpt2": Tiny(
        "gpt2",
        _GPT2,
        "bytes",
        backbone="transformer",
        blocks="h",
        final_norm="ln_f",
        ln1="ln_1",
        ln2="ln_2",
        norm="LN",
    ),
    "gpt_neox": Tiny(
        "gpt_neox",
        _DECODER,
        "bytes",
        backbone="gpt_neox",
        final_norm="final_layer_norm",
        ln2=None,
        norm="LN",
    ),
    "stablelm": Tiny("stablelm", _GQA | {"use_qkv_bias": True}, "bytes", norm="LN"),
    # Not in lensbench's table, but the only ones with a bias at the head, or a scale after it.
    "phi": Tiny("phi", _DECODER, "bytes", final_norm="final_layernorm", ln2=None, norm="LN"),
    "cohere": Tiny(
        "cohere", _GQA | {"logit_scale": 0.25}, "bytes+bos", ln2=None, norm="LN", logit_std=12.0
    ),
    "granite": Tiny("granite", _GQA | _GRANITE, "bytes", logit_std=12.0),
}
TOKENIZERS = ("bytes", "bytes+bos", "spaces")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """A family's checkpoint three times: on disk, as lensbench loads it, as Hugging Face does.

    The two are loaded separately, because bridging changes the Hugging Face model.
    """

    name: str
    row: Tiny
    folder: Path

    @cached_property
    def model(self) -> LensModel:
        from lensbench.models.load import load_model

        return load_model(self.folder, name=self.name, device="cpu")

    @cached_property
    def hf(self) -> PreTrainedModel:
        return self.fresh_hf()

    def fresh_hf(self) -> PreTrainedModel:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return model.eval()

    @cached_property
    def token_ids(self) -> list[list[int]]:
        """`PROMPTS` under this family's tokenizer."""
        return [self.model.tokenizer(prompt).input_ids for prompt in PROMPTS]


def save(row: Tiny, folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write the family's checkpoint and its tokenizer into `folder`."""
    model = random_model(row, changes)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer(row.tokenizer).save_pretrained(folder)
    return folder


def random_model(row: Tiny, changes: dict[str, Any] | None = None) -> PreTrainedModel:
    """Random weights of a size at which every part matters.

    Norm weights and biases get noise, or a lens that forgets them would pass; the head is scaled
    so that distributions are neither flat nor one-hot.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    fields = row.fields | special | (changes or {})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(row.model_type, **fields))
    generator = torch.Generator().manual_seed(0)

    def noise(weight: torch.Tensor) -> torch.Tensor:
        return torch.randn(weight.shape, generator=generator)

    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * noise(weight))
            else:
                weight.copy_(1.2 * noise(weight) / min(weight.shape) ** 0.5)
        head = model.get_output_embeddings().weight
        head.copy_(row.logit_std * noise(head) / head.shape[-1] ** 0.5)
    return model.eval()


def tokenizer(kind: str, sentences: Sequence[str] = SENTENCES) -> PreTrainedTokenizerFast:
    """A real BPE tokenizer, trained on the spot.

    "bytes" is GPT-2's kind, "bytes+bos" Llama 3's, and "spaces" SentencePiece's: spaces written
    as part of the word, one of them put before the text, a BOS token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = BpeTrainer(vocab_size=384, special_tokens=special, show_progress=False)
    if kind == "spaces":
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(sentences, trainer)
    if kind != "bytes":
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    bos = {} if kind == "bytes" else {"bos_token": "<s>"}
    unk = {"unk_token": "<unk>"} if kind == "spaces" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", **bos, **unk
    )
