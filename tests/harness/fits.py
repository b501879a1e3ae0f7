"""A corpus in the tiny models' own words, and what is asked for when a lens is fitted to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lensbench.fitting.spec import FitSpec
from tests.harness.tiny import SENTENCES, Case

_SMALL = {"tokens": 600, "choose_tokens": 100, "test_tokens": 500, "window": 32}
# A second model and passes without directions, in the tests that are of them.
_SMALL |= {"no_untrained": True, "directions": 0, "batch_tokens": 128}


def write_corpus(folder: Path) -> Path:
    """A folder of texts: words put together by chance, some of them facts that are left out."""
    chance, words = random.Random(0), " ".join(SENTENCES).split()
    for number in range(250):
        text = " ".join(chance.choices(words, k=40))
        (folder / f"{number:03d}.txt").write_text(text)
    return folder


def small_fit(corpus: Path, case: Case, /, **changes: Any) -> FitSpec:
    """A fit that takes a moment."""
    return FitSpec(str(case.folder), **({"corpus": str(corpus)} | _SMALL | changes))
