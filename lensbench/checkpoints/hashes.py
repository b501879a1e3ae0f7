"""What a checkpoint is: hashes of weights, tokenizer and config, and what it says of a text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.checkpoints.config.check import read_config
from lensbench.checkpoints.families import Fingerprint
from lensbench.checkpoints.identity import sha256_once
from lensbench.checkpoints.source import SINGLE, gguf_file, index_of
from lensbench.files import sha256_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_WEIGHTS = ("*.safetensors", "*.gguf")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt")
# What else decides token ids, each in a file of its own where it is not in tokenizer.json.
_WORDS = ("added_tokens.json", "special_tokens_map.json", "*.model", "*.spm", "*.tiktoken")
# As transformers saves them; older versions had the template in tokenizer_config.json.
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
# Besides its own weights what a sentence encoder's vectors depend on: tokenizer, pooling, layers
# behind it and theirs.
_MODULES = ("*.json", "*.txt", "*.model", "*_*/*.json", "*_*/*.safetensors")
_AT_ONCE = 4  # files that are hashed: a processor's core takes 1.5 GB a second
_ADAPTER = "adapter_"  # how the names of PEFT's files begin
# What the config says that changes no number: who wrote it, and how weights that are the same were
# stored. In which format they are computed is a fact of its own.
_NEUTRAL = {"_name_or_path", "name_or_path", "_model_name_or_path", "_commit_hash", "use_cache"}
_NEUTRAL |= {"transformers_version", "dtype", "torch_dtype", "_attn_implementation_autoset"}


def hashes(folder: Path) -> dict[str, str | None]:
    """Hashes of the weights, the tokenizer, the config and the chat template, whatever their files.

    An adapter that lies beside a model is no part of it. That of the config is null in a folder
    of a GGUF file, which holds its own; those of added tokens and of the template where the
    tokenizer's files hold them.

    Raises ModelError for a config.json that cannot be read.
    """
    templates = _found(_TEMPLATES, folder)
    return {
        "weights_sha256": weights_sha256(folder),
        "tokenizer_sha256": _combined(_found(_TOKENIZER, folder)),
        "added_tokens_sha256": added_tokens_sha256(folder),
        "config_sha256": _config_sha256(folder),
        "chat_template_sha256": _combined(templates) if templates else None,
    }


def weights_sha256(folder: Path) -> str:
    """The hash of the weights alone, of the files that are read: others may lie beside them."""
    files = _found(_WEIGHTS, folder)
    read = {folder / name for name in index_of(folder).values() or [SINGLE]}
    return _combined(read & {*files} or files)


def modules_sha256(folder: Path) -> str:
    """Of a sentence encoder all that makes vectors of texts, but for the encoder's own weights."""
    return _combined(_found(_MODULES, folder), folder)


def tokenizer_sha256(folder: Path) -> str:
    """The hash of the tokenizer alone, or of the GGUF file that holds it."""
    return _combined(_found(_WEIGHTS if gguf_file(folder) else _TOKENIZER, folder))


def added_tokens_sha256(folder: Path) -> str | None:
    """The hash of added and special tokens, and of words, in files of their own; null where none.

    (`tokenizer_sha256` is of the files that records of before say it is of.)
    """
    words = {*_found(_WORDS, folder)} - {*_found(_TOKENIZER, folder)}
    return _combined(words) if words else None


def _found(patterns: Sequence[str], folder: Path) -> list[Path]:
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return [path for path in found if not path.name.startswith(_ADAPTER)]


def _config_sha256(folder: Path) -> str | None:
    """The hash of what makes another model of the same weights, however it is written down.

    The config; where it names code that travels along, that; and the tokens that end a response.
    """
    if gguf_file(folder) is not None or not (folder / "config.json").is_file():
        return None
    config, _ = read_config(folder)
    parts = [_plain(config)]
    if config.get("auto_map"):
        parts += [{path.name: sha256_of(path)} for path in sorted(folder.glob("*.py"))]
    generation = folder / "generation_config.json"
    if generation.is_file():
        parts.append({"ends": read_config(generation)[0].get("eos_token_id")})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Without neutral entries at any depth, and a whole number as one: 1e4 is 10000."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items() if key not in _NEUTRAL}
    if isinstance(value, list):
        return [_plain(own) for own in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


FINGERPRINT_BITS = 5e-3  # another machine's float32 differs by less, another model by far more


def fingerprint_error(
    fingerprint: Fingerprint,
    token_ids: Sequence[int],
    next_logits: Callable[[Sequence[int]], Float[Tensor, " d_vocab"]],
) -> float:
    """By how many bits the likeliest tokens are now less or more likely; infinite for other tokens.

    `token_ids` are those of the fingerprint's text, `next_logits` gives the logits after some.
    """
    if tuple(token_ids) != fingerprint.token_ids:
        return math.inf
    bits = next_logits(token_ids).cpu().double().log_softmax(-1) / math.log(2)
    pairs = zip(fingerprint.top_ids, fingerprint.top_bits, strict=True)
    return max(abs(float(bits[token]) - stored) for token, stored in pairs)


def _combined(files: Iterable[Path], folder: Path | None = None) -> str:
    """One hash over the names and contents of some files, of which several are read at once.

    Names are those of the files alone, or from a folder on.
    """
    ordered = sorted(files)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(ordered, pool.map(sha256_once, ordered), strict=True)
        lines = [
            f"{path.relative_to(folder).as_posix() if folder else path.name} {sha256}\n"
            for path, sha256 in found
        ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
