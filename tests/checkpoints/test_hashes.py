"""What a checkpoint is, in its hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.hashes import hashes
from lensbench.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_bytes(b"words")
    return tmp_path


def test_the_hashes_are_of_different_files(folder: Path) -> None:
    before = hashes(folder)
    (folder / "config.json").write_text("{}")
    assert hashes(folder) == before | {"config_sha256": _of(folder, {})}
    (folder / "tokenizer.json").write_bytes(b"other")
    after = hashes(folder)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["tokenizer_sha256"] != before["tokenizer_sha256"]


@pytest.mark.parametrize(
    "name", ["added_tokens.json", "special_tokens_map.json", "spiece.model", "words.tiktoken"]
)
def test_tokens_in_files_of_their_own_have_a_hash_of_their_own(folder: Path, name: str) -> None:
    """Each decides token ids. That of the tokenizer stays what records of before say it is."""
    (folder / "tokenizer.model").write_bytes(b"of the tokenizer's own hash")
    before = hashes(folder)
    assert before["added_tokens_sha256"] is None
    found = []
    for text in ("{}", "{ }"):
        (folder / name).write_text(text)
        found.append(hashes(folder))
    told = {one.pop("added_tokens_sha256") for one in found}
    assert len(told) == 2 and None not in told
    assert all(one == {k: before[k] for k in one} for one in found)


def test_the_weights_are_those_that_are_read(tmp_path: Path) -> None:
    """Of an index those that it names: other ones may lie beside them, each whole."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    found = []
    for name in ("a", "b", "a"):
        (tmp_path / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"head": f"{name}.safetensors"}})
        )
        found.append(hashes(tmp_path)["weights_sha256"])
    assert found[0] == found[2] != found[1]
    (tmp_path / "b.safetensors").unlink()
    assert hashes(tmp_path)["weights_sha256"] == found[0]


CONFIG = {"model_type": "llama", "rope_theta": 10000, "sliding_window": None, "text": {"eps": 1e-6}}


def _of(folder: Path, config: dict[str, Any], **how: Any) -> str | None:
    (folder / "config.json").write_text(json.dumps(config, **how))
    return hashes(folder)["config_sha256"]


def test_a_config_is_the_same_however_it_is_written_down(folder: Path) -> None:
    written = [
        CONFIG,
        dict(reversed(CONFIG.items())),
        CONFIG | {"rope_theta": 1e4},
        CONFIG | {"transformers_version": "5.1", "_name_or_path": "/m", "torch_dtype": "float16"},
        CONFIG | {"dtype": "bfloat16", "use_cache": False},
        CONFIG | {"text": {"eps": 1e-6, "dtype": "float32"}},
    ]
    found = {_of(folder, one) for one in written} | {_of(folder, CONFIG, indent=8)}
    assert len(found) == 1 and None not in found


def test_whatever_makes_another_model_of_the_same_weights_is_another_config(folder: Path) -> None:
    """An entry that is null is not one that is missing: there the class has a default."""
    plain = _of(folder, CONFIG)
    others = [
        CONFIG | {"rope_theta": 500000},
        CONFIG | {"sliding_window": 4},
        {key: value for key, value in CONFIG.items() if key != "sliding_window"},
        CONFIG | {"text": {"eps": 1e-5}},
        CONFIG | {"tie_word_embeddings": True},
    ]
    found = [plain, *(_of(folder, one) for one in others)]
    assert _of(folder, CONFIG) == plain
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    found.append(hashes(folder)["config_sha256"])  # where a response ends
    own_code = CONFIG | {"auto_map": {"AutoModel": "modeling.Own"}}
    for text in ("a", "b"):
        (folder / "modeling.py").write_text(text)
        found.append(_of(folder, own_code))
    assert len(set(found)) == len(found)


def test_a_config_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        hashes(folder)


def test_a_chat_template_in_a_file_of_its_own_has_a_hash_of_its_own(folder: Path) -> None:
    """That of the tokenizer stays what records of before say it is."""
    before = hashes(folder)
    assert before["chat_template_sha256"] is None
    found = []
    (folder / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/rag.jinja"):
        for text in ("{{ a }}", "{{ b }}"):
            (folder / name).write_text(text)
            found.append(hashes(folder))
    told = {one.pop("chat_template_sha256") for one in found}
    assert len(told) == 4 and None not in told
    assert all(one == {k: before[k] for k in one} for one in found)
