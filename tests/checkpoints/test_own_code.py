"""Code that travels with a model: where a file of it is missing, that file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensbench import load_model
from lensbench.checkpoints.open import open_tokenizer
from lensbench.errors import ModelError
from tests.harness.program import Program
from tests.harness.tiny import TINY, Tiny, save


def add(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_code_that_is_not_there_is_named(tmp_path: Path, lensbench: Program) -> None:
    row = Tiny("phi3", TINY["llama"].fields | {"pad_token_id": 0}, "bytes")
    folder = save(row, tmp_path / "phi3")
    code = {"AutoConfig": "conf.MyConfig", "AutoModelForCausalLM": "model.MyModel"}
    add(folder / "config.json", auto_map=code)
    done = lensbench("check", folder, "--trust-remote-code")
    assert done.status == 2
    assert "files name code that is not beside them" in done.said and "conf.py" in done.said
    own = "from transformers import Phi3Config\n\n\nclass MyConfig(Phi3Config):\n    pass\n"
    (folder / "conf.py").write_text(own)
    with pytest.raises(ModelError, match=r"code that is not beside them .*model\.py"):
        load_model(folder, device="cpu", trust_remote_code=True)
    load_model(folder, device="cpu")  # transformers' own code needs none of it
    add(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.MyTokenizer", None]})
    with pytest.raises(ModelError, match=r"code that is not beside them .*tok\.py"):
        open_tokenizer(folder, trust_remote_code=True)
