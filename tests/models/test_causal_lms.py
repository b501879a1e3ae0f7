"""Causal language models of transformers in tiny forms: equal to Hugging Face, or refused.

`make bench-families` makes the table of them all; here stand a few of each kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.families import in_a_fork
from tests.harness.causal_lms import model_types
from tests.harness.sweep import VERBS, sweep

# Neither embedding of positions nor a limit of them (ALiBi), a state space, gaps in what the config
# class declares, positions that count padding, attention to what comes after.
SERVED = ("bloom", "mpt", "mamba", "qwen3_moe", "opt")
REFUSED = {"bart": "--batch-size 1", "bert": "no causal language model"}


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {verb: found[verb]["verdict"] for verb in VERBS if verb in found}


@pytest.mark.parametrize("model_type", SERVED)
def test_a_class_is_equal_to_hugging_face(model_type: str, tmp_path: Path) -> None:
    found = sweep(model_type, tmp_path, ("lens", "infer"))
    assert verdicts(found) == {"lens": "equal", "infer": "equal"}, found


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_class_that_cannot_be_served_is_refused(model_type: str, tmp_path: Path) -> None:
    found = sweep(model_type, tmp_path, ("lens", "infer"))
    assert verdicts(found) == {"lens": "refused", "infer": "refused"}, found
    assert REFUSED[model_type] in found["infer"]["said"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", model_types())
def test_every_class_is_equal_or_refused(model_type: str) -> None:
    found = in_a_fork(model_type)
    assert "died" not in found, found
    assert set(verdicts(found).values()) <= {"equal", "refused"}, found
