"""A tiny model to ask, and what to ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from tests.harness.adapted import adapted, alone
from tests.harness.files import write_csv
from tests.harness.inference import GREEDY, N_NEW, PROMPTS
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": key, "prompt": text, "topic": f"-{key}"} for key, text in PROMPTS.items()]
    return write_csv(tmp_path_factory.mktemp("prompts") / "prompts.csv", rows)


@pytest.fixture(scope="module")
def model(llama: Case) -> AdaptedModel:
    """Two tokens end a response, so that rows of a batch stop at different times."""
    found = adapted(llama)
    some = [alone(found, found.tokenizer(text).input_ids, N_NEW) for text in PROMPTS.values()]
    found.base.generation_config.eos_token_id = [some[0][2], some[3][4]]
    return found


@pytest.fixture
def spec(prompts: Path, tmp_path: Path) -> Callable[..., InferenceSpec]:
    def make(**changes: Any) -> InferenceSpec:
        settings = {"prompts": prompts, "out": tmp_path / "out.csv", "decoding": GREEDY}
        return InferenceSpec(**(settings | {"batch_size": 3, "style": "none"} | changes))

    return make
