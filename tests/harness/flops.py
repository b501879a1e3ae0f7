"""Operations that torch counts while something is done."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class _NoModules:
    """Counts are not told apart by module: what does that puts hooks on what takes gradients."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def counted(work: Callable[[], object]) -> int:
    """What torch makes, forward and back.

    A CPU's fused attention is not counted by torch; in products of matrices, as here, it is.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())
