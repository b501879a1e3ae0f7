"""What a GGUF file says of its model, and what transformers makes of it.

transformers takes from a file what it knows, and the defaults of a class for all else: the rotary
scaling of Llama 3 was lost, 11.9 bits at a late position. Here every key and every tensor of a file
is compared with the config that it became, is known to be harmless, or is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.checkpoints.config.check import MOST_OF_A_KIND, is_count
from lensbench.errors import ModelError, first_line, refused_by_library

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Sections that say who made the file, and how it is stored.
_HARMLESS = ("GGUF.", "general.", "split.", "quantize.", "imatrix.", "mradermacher.")
# Keys of the architecture without an effect on the forward pass of a prompt.
_NO_EFFECT = {"tensor_data_layout", "pooling_type"}
# Keys of the tokenizer that transformers takes, or `gguf_tokenizer` after it.
_TOKENIZER = (
    "model pre tokens scores token_type merges precompiled_charsmap add_bos_token add_eos_token "
    "add_sep_token add_space_prefix remove_extra_whitespaces token_type_count"
)
# How byte-level texts are split before their merges, by the file's name for it, where llama.cpp
# splits as GPT-2 does, which is what transformers takes when it does not know the name.
_AS_GPT2 = {"gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "roberta-bpe", "gigachat"}
# Where a piece that is a token of its own is not merged out of smaller ones, and where BOS comes
# first in a file that does not say (src/llama-vocab.cpp); transformers knows neither.
_AS_LLAMA3 = {
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1"),
    *("pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken"),
}
# The same as GPT-2 after each digit was split off.
_DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
ROPE_FREQS = "rope_freqs.weight"
# Llama 3.1 and later, all sizes: how low and high frequencies are told apart.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_UNREADABLE = "the installed transformers cannot read this GGUF file"
_SAFETENSORS = "Take the model as safetensors."
_FACTOR_ERROR = 1e-4  # relative; float32 in the file
_VALUE_ERROR = 1e-6  # of a number that was float32 in the file


@dataclass(frozen=True)
class Gguf:
    """What stands in a file's header."""

    path: Path
    architecture: str
    fields: dict[str, Any]  # arrays of texts by their length
    tensors: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Gguf:
        """Read the header. Raises ModelError when it is not one."""
        from transformers.integrations.gguf import read_gguf_metadata

        try:
            fields, tensors = read_gguf_metadata(str(path))
        except (ArithmeticError, LookupError, OSError, ValueError, struct.error) as error:
            raise ModelError(f"{path} is no whole GGUF file ({error}). Fetch it again.") from error
        architecture = fields["general.architecture"]
        if not isinstance(architecture, str):
            raise ModelError(f"{path} names no architecture but {architecture!r}. Fetch it again.")
        file = cls(path, architecture, fields, tensors)
        _refuse(file, [*file.endless()])
        return file

    def endless(self) -> Iterator[str]:
        """Counts of more than there are in any model: as many of something would be made."""
        for name, value in self.own().items():
            if is_count(name) and isinstance(value, int) and value > MOST_OF_A_KIND:
                yield f"{self.architecture}.{name} = {value}: more than any model has"

    def rope_factors(self) -> Float[np.ndarray, " d_head/2"] | None:
        """By what the rotary frequencies are divided, where the file says it in a tensor."""
        from transformers.integrations.gguf import GgufHeader, load_gguf_state_dict

        if ROPE_FREQS not in self.tensors:
            return None
        stored = load_gguf_state_dict(GgufHeader.from_file(str(self.path)))
        factors: Float[np.ndarray, " d_head/2"] = stored[ROPE_FREQS][...].float().numpy()
        return factors

    def own(self) -> dict[str, Any]:
        """The keys of the architecture, without its name."""
        start = f"{self.architecture}."
        return {k.removeprefix(start): v for k, v in self.fields.items() if k.startswith(start)}


def gguf_config(path: Path) -> Any:
    """The config that transformers makes of a GGUF file, checked against all that the file says.

    The rotary scaling of Llama 3 is taken over from the file's own factors. Raises ModelError with
    every key whose effect was lost.
    """
    from transformers import AutoConfig

    file = Gguf.of(path)
    with refused_by_library(f"{path}: {_UNREADABLE}", _SAFETENSORS):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    findings = [*_take_rope_factors(file, config), *_lost(file, config), *_tokenizer_lost(file)]
    _refuse(file, findings)
    return config


def unreadable(path: Path, error: Exception) -> ModelError:
    """What to say where transformers has no way to read a GGUF file."""
    return ModelError(f"{path}: {_UNREADABLE} ({first_line(error)}). {_SAFETENSORS}")


def require_all_tensors(path: Path, empty: PreTrainedModel) -> None:
    """Raise ModelError naming the tensors of a GGUF file that transformers passes over."""
    from transformers import modeling_gguf_pytorch_utils as legacy
    from transformers.integrations.gguf import is_gguf_arch_supported

    file = Gguf.of(path)
    if is_gguf_arch_supported(file.architecture):  # its loader reports what it does not use
        return
    make = legacy.TENSOR_PROCESSORS.get(file.architecture, legacy.TensorProcessor)
    try:
        used = legacy.get_gguf_hf_weights_map(empty, make(config=empty.config.to_dict()))
    except NotImplementedError as error:
        raise unreadable(path, error) from error
    known = {*used, *(f"{name}.weight" for name in used), ROPE_FREQS}  # joint experts: no suffix
    unused = [name for name in file.tensors if name not in known]
    if file.architecture == "gpt2" and "output.weight" in unused:
        unused.remove("output.weight")  # taken as it is
    _refuse(file, [f"{name}: a tensor that transformers has no place for" for name in unused])


def _refuse(file: Gguf, findings: Sequence[str]) -> None:
    if findings:
        lines = "\n".join(f"  - {finding}" for finding in findings)
        raise ModelError(
            f"{file.path}: what the file says of the model would be lost:\n{lines}\n"
            "Take the model as safetensors, whose config.json says all of it."
        )


# --- the rotary factors of Llama 3 --------------------------------------------------------------


def _take_rope_factors(file: Gguf, config: Any) -> Iterator[str]:
    """Put the scaling that the factors were made from into the config; else say why not."""
    factors = file.rope_factors()
    if factors is None or bool(np.all(factors == 1)):
        return
    rope = dict(config.rope_parameters)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scaling = _LLAMA3 | {"factor": float(factors.max())}
    wanted = llama3_factors(scaling, rope["rope_theta"], head)
    if rope.get("rope_type", "default") != "default" or not np.allclose(
        factors, wanted, rtol=_FACTOR_ERROR, atol=0
    ):
        yield f"{ROPE_FREQS}: rotary scaling that is not Llama 3's, so its parameters are unknown"
        return
    config.rope_parameters = rope | scaling


def llama3_factors(
    scaling: Mapping[str, Any], theta: float, d_head: int
) -> Float[np.ndarray, " d_head/2"]:
    """By how much Llama 3 divides each rotary frequency (Llama 3.1 reference code)."""
    frequencies = theta ** -(np.arange(0, d_head, 2) / d_head)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


# --- every key against the config ---------------------------------------------------------------


def _lost(file: Gguf, config: Any) -> Iterator[str]:
    """Keys that say something else than the config, and keys that nobody has checked."""
    own = file.own()
    for key, value in own.items():
        if key in _NO_EFFECT:
            continue
        if key not in _MEANING:
            yield f"{file.architecture}.{key} = {str(value)[:60]}: unknown to lensbench"
            continue
        became = _MEANING[key](config)
        if not _agree(value, became):
            name = f"{file.architecture}.{key}"
            yield f"{name} = {str(value)[:60]}, but the config has {str(became)[:60]}"
    for key in _needed(file):
        if key not in own:
            yield f"{file.architecture}.{key} is not said, and transformers goes on without it"
    for key, default in _UNSAID.items():
        became = _MEANING[key](config)
        if key not in own and not _agree(default(config), became):
            yield f"{file.architecture}.{key} is not said, and the config has {became}"
    for section in file.fields:
        if not section.startswith((*_HARMLESS, "tokenizer.", f"{file.architecture}.")):
            yield f"{section}: unknown to lensbench"


def _needed(file: Gguf) -> Iterator[str]:
    """Keys without which transformers takes a class's default, or the keys' rows as they lie."""
    own = file.own()
    yield "context_length"
    if not any(key.startswith("attention.layer_norm") for key in own):
        yield "attention.layer_norm_rms_epsilon"
    if file.architecture == "llama":  # whose rows are stored in another order, head by head
        yield "attention.head_count_kv"


def _agree(said: Any, became: Any) -> bool:
    if isinstance(said, float) and isinstance(became, int | float):
        return math.isclose(said, became, rel_tol=_VALUE_ERROR)
    if isinstance(said, list) and not isinstance(became, list):
        return all(_agree(one, became) for one in said)
    return bool(said == became)


def _first(*names: str) -> Callable[[Any], Any]:
    """The first of these fields that a config has."""
    return lambda config: next(
        (value for name in names if (value := getattr(config, name, None)) is not None), None
    )


def _head(config: Any) -> int:
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _rotated(config: Any) -> int:
    """How many of a head's numbers are rotated."""
    return int(_head(config) * _rope(config).get("partial_rotary_factor", 1.0))


def _rope(config: Any, kind: str = "full_attention") -> dict[str, Any]:
    """The rotary parameters, of one kind of block where the kinds differ."""
    rope = getattr(config, "rope_parameters", None) or {}
    return dict(rope.get(kind, rope))


def _theta(config: Any) -> Any:
    return _rope(config).get("rope_theta")


def _scaling(config: Any) -> str:
    """As llama.cpp calls it. Llama 3's stands in a tensor, and counts as none."""
    kind = _rope(config).get("rope_type", "default")
    return {"default": "none", "llama3": "none"}.get(kind, kind)


def _window(config: Any) -> int | None:
    """The width of the sliding window, where a block has one."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return getattr(config, "sliding_window", None)


def _window_pattern(config: Any) -> list[bool]:
    return [kind == "sliding_attention" for kind in config.layer_types]


def _attention_scale(config: Any) -> float:
    scalar = getattr(config, "query_pre_attn_scalar", None) or _head(config)
    return float(getattr(config, "attention_multiplier", None) or scalar**-0.5)


_KV_HEADS = _first("num_key_value_heads", "num_attention_heads", "n_head")
# What each key of an architecture is in a config of transformers.
_MEANING: dict[str, Callable[[Any], Any]] = {
    "block_count": _first("num_hidden_layers", "n_layer"),
    "context_length": _first("max_position_embeddings", "n_positions"),
    "embedding_length": _first("hidden_size", "n_embd"),
    "feed_forward_length": _first("intermediate_size", "n_inner"),
    "vocab_size": _first("vocab_size"),
    "attention.head_count": _first("num_attention_heads", "n_head"),
    "attention.head_count_kv": _KV_HEADS,
    "attention.key_length": _head,
    "attention.value_length": _head,
    "attention.key_length_swa": _head,
    "attention.value_length_swa": _head,
    "attention.layer_norm_rms_epsilon": _first("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": _first("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "attention.scale": _attention_scale,
    "attention.causal": lambda config: True,
    "attention.sliding_window": _window,
    "attention.sliding_window_pattern": _window_pattern,
    "rope.dimension_count": _rotated,
    "rope.dimension_count_swa": _rotated,
    "rope.freq_base": _theta,
    "rope.freq_base_swa": lambda config: _rope(config, "sliding_attention").get("rope_theta"),
    "rope.scaling.type": _scaling,
    "rope.scaling.factor": lambda config: _rope(config).get("factor"),
    "rope.scaling.original_context_length": lambda config: _rope(config).get(
        "original_max_position_embeddings"
    ),
    "attn_logit_softcapping": _first("attn_logit_softcapping"),
    "final_logit_softcapping": _first("final_logit_softcapping"),
    "use_parallel_residual": _first("use_parallel_residual"),
    "logit_scale": _first("logit_scale", "logits_scaling"),
    "embedding_scale": _first("embedding_multiplier"),
    "residual_scale": _first("residual_multiplier"),
    "expert_count": _first("num_local_experts", "num_experts"),
    "expert_used_count": _first("num_experts_per_tok"),
    "expert_feed_forward_length": _first("moe_intermediate_size"),
}
# What llama.cpp takes where the file does not say, in the models that rotate or slide.
_UNSAID: dict[str, Callable[[Any], Any]] = {
    "rope.freq_base": lambda config: None if _theta(config) is None else 10_000.0,
    "attention.sliding_window": lambda config: 4096 if config.model_type == "gemma2" else None,
    "attention.key_length": lambda config: config.hidden_size // config.num_attention_heads,
    "attention.scale": lambda config: _head(config) ** -0.5,  # but in the 27B of Gemma 2 and 3
}


# --- the tokenizer ------------------------------------------------------------------------------


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, as llama.cpp reads it.

    transformers splits no digits off first (SmolLM's: two line breaks before a number are two
    tokens instead of one), merges pieces that are tokens (Llama 3's), leaves BOS out where the file
    leaves it to llama.cpp, and puts a space before a SentencePiece text that is to have none.
    Raises ModelError where that cannot be mended.
    """
    from transformers import AutoTokenizer

    with refused_by_library(f"{path}: {_UNREADABLE}", _SAFETENSORS):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    said = Gguf.of(path).fields
    pre, core = said.get("tokenizer.ggml.pre"), tokenizer.backend_tokenizer
    if said.get("tokenizer.ggml.model") == "gpt2" and pre in _DIGITS_FIRST:
        core.pre_tokenizer = _digits_first()
    if said.get("tokenizer.ggml.model") == "gpt2" and pre in _AS_LLAMA3:
        core.model.ignore_merges = True
        tokenizer.add_bos_token = said.get("tokenizer.ggml.add_bos_token", True)
    spaced = said.get("tokenizer.ggml.add_space_prefix", True)
    if said.get("tokenizer.ggml.model") == "llama" and not spaced and _puts_space(tokenizer):
        core.pre_tokenizer, core.decoder = _no_space()
        if _puts_space(tokenizer):
            what = "tokenizer.ggml.add_space_prefix = False, and transformers puts one"
            _refuse(Gguf.of(path), [what])
    return tokenizer


def _digits_first() -> Any:
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])


def _puts_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a SentencePiece text begins with a space that nobody wrote."""
    first = tokenizer("a", add_special_tokens=False).input_ids[0]
    return str(tokenizer.convert_ids_to_tokens(first)).startswith("\u2581")


def _no_space() -> tuple[Any, Any]:
    """How SentencePiece texts are split and put together where no space comes first."""
    from tokenizers import decoders, pre_tokenizers

    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    split = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return split, decoders.Sequence(parts)


def _tokenizer_lost(file: Gguf) -> Iterator[str]:
    """Keys of the tokenizer that nobody has checked, and a way to split that is not known."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    known = {f"tokenizer.ggml.{name}" for name in _TOKENIZER.split()}
    for key in file.fields:
        harmless = key.endswith(("_token_id", "_token_ids")) or "chat_template" in key
        if key.startswith("tokenizer.") and key not in known and not harmless:
            yield f"{key}: unknown to lensbench"
    pre = file.fields.get("tokenizer.ggml.pre", "default")
    splits = {*mapping.GGUF_PRE_TOKENIZER_SPLITS, *_AS_GPT2, *_DIGITS_FIRST}
    if file.fields.get("tokenizer.ggml.model") == "gpt2" and pre not in splits:
        yield f"tokenizer.ggml.pre = {pre}: how texts are split is unknown, so are the tokens"
