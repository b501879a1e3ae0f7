"""A part on its way through a shared folder, whatever that is."""

from __future__ import annotations

from pathlib import Path

from lensbench.cluster.folders.shared import SharedFolder
from lensbench.cluster.folders.staged import leave, left, take_in
from lensbench.records.parts import Part, Parts
from lensbench.records.schema.adapters import PLACEMENT
from tests.harness.files import contents


def require_through(shared: SharedFolder, place: Path) -> None:
    """It arrives as it would have been written, and nothing of it is left on the way."""
    part = Part({"placement": PLACEMENT.schema.empty_table()}, files={"residuals/3.bin": b"abc"})
    straight, through = Parts(place / "a"), Parts(place / "b")
    straight.write(3, part)
    leave(shared, "here", 3, straight.files(3, part))
    assert left(shared, "here") == {3}
    assert left(shared, "elsewhere") == set()
    take_in(shared, "here", 3, through)
    assert contents(place / "a") == contents(place / "b")
    assert through.has(3)
    assert left(shared, "here") == set()
