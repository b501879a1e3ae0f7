"""Which families stand for the others where one thing is held to several of them.

Each family is held to Hugging Face at every layer, in the gate, in generation and in its trace by
`make test`. What else is asked of all of them is tried there on those that differ in kind, and on
the others by `make test-all`.
"""

from __future__ import annotations

import pytest

from tests.harness.tiny import TINY

# Nothing in these but a number, or a part that one of the others has.
ALIKE = {
    "llama3": "llama with scaled rotary angles",
    "mistral": "llama with the sliding window of gemma2",
    "gemma3_text": "gemma2 with the norms of queries and keys of qwen3",
    "stablelm": "llama with the LayerNorm of gpt2",
    "phi": "gpt_neox with a bias at the head",
    "granite": "llama with multipliers",
}
DISTINCT = [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in TINY]
distinct_families = pytest.mark.parametrize("family", DISTINCT, indirect=True)
