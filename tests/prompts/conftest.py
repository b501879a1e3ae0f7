"""Tokenizers of every kind, as they come back from a folder."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.harness.tiny import TOKENIZERS, tokenizer


@pytest.fixture(scope="module", params=TOKENIZERS)
def tok(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer(request.param).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
