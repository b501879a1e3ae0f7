"""How many threads share a sum: it decides last digits, so a record keeps to one number."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def n_threads() -> int | None:
    """Those of torch in this process; None where it is not in use."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Inside, torch sums with so many threads; None: as before. Nothing where it is not in use."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)  # said anew, it also keeps MKL from choosing fewer
    try:
        yield
    finally:
        torch.set_num_threads(before)
