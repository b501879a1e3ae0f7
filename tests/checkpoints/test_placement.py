"""Which block goes onto which device, and what is refused of a list of devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lensbench.checkpoints import placement
from lensbench.checkpoints.placement import Place, Placement, require_fit
from lensbench.errors import InputProblems, ModelError
from tests.harness.tiny import Case

HUGE = 10**15
SIZES = 10  # bytes of a block here; all beside the blocks has 5


class Counted:
    """Counts a tiny model's blocks as so many bytes each."""

    def __init__(self, blocks: torch.nn.ModuleList) -> None:
        self.blocks = [*blocks]

    def __call__(self, module: torch.nn.Module) -> int:
        return SIZES if module in self.blocks else 5 + SIZES * len(self.blocks)


def filled(case: Case, *places: Place, folder: Path | None = None) -> dict[str, str] | None:
    blocks = case.hf.model.layers
    plan = Placement(places, folder).plan(case.hf, Counted(blocks))
    return None if plan is None else plan.where


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "memory_available", lambda device: HUGE)


def test_devices_are_filled_in_their_order(plenty: None, llama: Case, tmp_path: Path) -> None:
    gpus = Place("cuda:0", 15), Place("cuda:1", 10), Place("cuda:2")
    assert filled(llama, *gpus) == {
        "model.embed_tokens": "cuda:0",
        "model.norm": "cuda:0",
        "model.rotary_emb": "cuda:0",
        "lm_head": "cuda:0",
        "model.layers.0": "cuda:0",
        "model.layers.1": "cuda:1",
        "model.layers.2": "cuda:2",
    }
    # The first device has room for a block that is brought in from elsewhere.
    two = filled(llama, Place("cpu", 25), Place("disk"), folder=tmp_path)
    assert two is not None
    assert [two[f"model.layers.{i}"] for i in range(3)] == ["cpu", "disk", "disk"]
    assert filled(llama, Place("cuda:0", 35), Place("cpu")) is None  # all of it fits


def test_computing_is_on_the_first_gpu_whatever_the_order(
    plenty: None, llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "existing", lambda device: device)
    for text in ("cuda:1,cpu,cuda:0", "cpu,cuda:0,cuda:1", "cuda,cuda:1,cpu"):
        found = Placement.of(text)
        assert [place.device for place in found.places] == ["cuda:0", "cuda:1", "cpu"]
        assert found.main == "cuda:0"
    plan = Placement((Place("cuda:0", 15), Place("cuda:1", 99))).plan(
        llama.hf, Counted(llama.hf.model.layers)
    )
    assert plan is not None and not plan.offloads
    assert plan.map["model.layers.2"] == 1  # accelerate computes on the lowest number


def test_too_little_room_says_how_much_there_is_where(
    plenty: None, llama: Case, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"Add disk=FOLDER"):
        filled(llama, Place("cuda:0", 15), Place("cuda:1", 9))
    two = Placement((Place("cpu", 8 * 10**9), Place("disk", 10**9)), tmp_path)
    with pytest.raises(ModelError) as caught:
        require_fit(8_030_261_248, torch.float32, two)
    assert "32.1 GB, but 8.0 GB on cpu + 1.0 GB on disk are available" in str(caught.value)
    assert "Take a smaller model" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("disk=/", "a disk computes nothing"),
        ("cpu,disk=", "there is no folder named"),
        ("cpu,disk=/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("cpu,cpu=2GB", "cpu stands twice"),
        ("cpu=2", "'2' is no size like 20GB"),
        ("cpu,mps", "shares the processor's memory"),
        ("cpu,abacus", "'abacus' is no device"),
    ],
)
def test_a_list_that_says_nothing_sensible(given: str, said: str) -> None:
    with pytest.raises(InputProblems, match=said):
        Placement.of(given)


def test_all_that_is_wrong_comes_at_once() -> None:
    with pytest.raises(InputProblems) as caught:
        Placement.of("abacus,cpu=2,disk=/nowhere/at/all")
    assert len(caught.value.problems) == 3


def test_one_device_is_as_before() -> None:
    assert Placement.of("cpu") == Placement((Place("cpu"),))
    with pytest.raises(ModelError, match="'abacus' is no device"):
        Placement.of("abacus")


def test_auto_is_all_there_is(tiny_case: Callable[[str], Case]) -> None:
    devices = [place.device for place in Placement.of("auto").places]
    assert devices[-1] == "cpu"
    assert len(devices) == 1 + torch.cuda.device_count()
