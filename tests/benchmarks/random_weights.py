"""A checkpoint of a real size with random weights, written tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensbench.files import write_text

_SHARD_BYTES = 2 << 30


def write_model(config_file: Path, folder: Path, blocks: int | None = None) -> None:
    """A checkpoint of this config, a shard at a time, and a tokenizer of 300 words."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoConfig, PreTrainedTokenizerFast

    from lensbench.checkpoints.open import empty_model

    fields = json.loads(config_file.read_text(encoding="utf-8")) | {"eos_token_id": None}
    fields |= {"torch_dtype": "bfloat16"} | ({"num_hidden_layers": blocks} if blocks else {})
    model = empty_model(AutoConfig.for_model(**fields))
    part = folder.with_name(f"{folder.name}.part")  # it has its name when it is whole
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.config.save_pretrained(part)
    generator, places = torch.Generator().manual_seed(0), {}
    for number, names in enumerate(_shards(model)):
        shard = {}
        for name in names:
            weight = torch.empty(model.get_parameter(name).shape, dtype=torch.bfloat16)
            one = weight.ndim == 1
            shard[name] = weight.fill_(1) if one else weight.normal_(0, 0.02, generator=generator)
            places[name] = f"model-{number:05d}.safetensors"
        save_file(shard, part / f"model-{number:05d}.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    write_text(part / "model.safetensors.index.json", json.dumps(index))
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    words = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", eos_token="w299")
    words.save_pretrained(part)
    part.rename(folder)


def _shards(model: Any) -> Iterator[list[str]]:
    """The names of the weights, in groups of so many bytes; a tied head is none."""
    names, size = [], 0
    for name, weight in model.named_parameters():
        names.append(name)
        size += 2 * weight.numel()
        if size >= _SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def weight_files(folder: Path) -> list[Path]:
    """Where the weights are."""
    return sorted(folder.glob("*.safetensors"))


def weight_file_bytes(folder: Path) -> int:
    """Of all of them."""
    return sum(path.stat().st_size for path in weight_files(folder))


def into_memory(folder: Path) -> None:
    """Read the files once, so that no process pays for the disk in another's place."""
    for path in weight_files(folder):
        with path.open("rb", buffering=0) as handle:
            while handle.read(16 << 20):
                pass
