"""Which block goes onto which device, and what is refused of a list of devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.checkpoints import placement
from lensbench.checkpoints.placement import Place, Placement, require_fit
from lensbench.errors import InputProblems, ModelError
from lensbench.spec import Devices, Spec
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


@given(
    limits=st.lists(st.integers(0, 60), min_size=2, max_size=5),
    rest=st.integers(0, 30),
    block=st.integers(1, 20),
    last=st.sampled_from(["cuda", "cpu", "disk"]),
)
def test_no_device_holds_more_than_it_may_and_none_is_left_out(
    llama: Case, limits: list[int], rest: int, block: int, last: str
) -> None:
    """By hand: blocks follow each other, and the first device has room for what comes to it."""
    names = [f"cuda:{i}" for i in range(len(limits) - 1)]
    names.append(last if last != "cuda" else f"cuda:{len(names)}")
    places = [Place(name, limit) for name, limit in zip(names, limits, strict=True)]
    offload = Path("/tmp") if last == "disk" else None
    blocks = [*llama.hf.model.layers]
    total = rest + block * len(blocks)

    def size(module: torch.nn.Module) -> int:
        return block if module in blocks else total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "memory_available", lambda device: HUGE)
        try:
            plan = Placement(tuple(places), offload).plan(llama.hf, size)
        except ModelError:
            plan = None
            assert total > limits[0]
            # It is right to refuse: not even the rest fits, or a block finds no room in its turn.
            brought = block if last in ("cpu", "disk") else 0
            free = [limits[0] - rest - brought, *limits[1:]]
            assert free[0] < 0 or sum(max(room, 0) // block for room in free) < len(blocks)
            return
    if plan is None:
        assert total <= limits[0]
        return
    found = [plan.where[f"model.layers.{i}"] for i in range(len(blocks))]
    assert [names.index(one) for one in found] == sorted(names.index(one) for one in found)
    held = {name: block * found.count(name) for name in names}
    brought = block if last in ("cpu", "disk") else 0
    assert held[names[0]] + rest + brought <= limits[0]
    assert all(held[name] <= limit for name, limit in list(zip(names, limits, strict=True))[1:])
    outside = {name: device for name, device in plan.where.items() if "layers" not in name}
    assert set(outside.values()) == {names[0]}


def test_the_map_covers_every_weight_once_as_accelerate_checks_it(
    plenty: None, tiny_case: Callable[[str], Case]
) -> None:
    """Two GPUs that are not here: the map alone is held to accelerate's own check of one."""
    from accelerate.utils import check_device_map

    tied = set()
    for name in ("llama", "gpt2", "gemma2", "qwen3"):
        hf = tiny_case(name).hf
        sizes = sum(weight.numel() for weight in hf.parameters())
        plan = Placement((Place("cuda:0", int(0.8 * sizes)), Place("cuda:1"))).plan(
            hf, lambda module: sum(weight.numel() for weight in module.parameters())
        )
        assert plan is not None
        assert {*plan.map.values()} == {0, 1}
        check_device_map(hf, plan.map)
        tied.add(hf.get_input_embeddings().weight is hf.get_output_embeddings().weight)
        places = {plan.map[one] for one in plan.map if ".layers." not in one and ".h." not in one}
        assert places == {0}  # embedding and head together
    assert tied == {True, False}


def test_a_limit_that_the_first_device_cannot_keep_is_refused(
    plenty: None, llama: Case, tmp_path: Path
) -> None:
    """It takes embedding, head and a block at a time, whatever else lies elsewhere."""
    with pytest.raises(ModelError, match="of which cpu also takes embedding, head and the block"):
        filled(llama, Place("cpu", 14), Place("disk"), folder=tmp_path)
    with pytest.raises(ModelError, match="of which cuda:0 also takes embedding"):
        filled(llama, Place("cuda:0", 4), Place("cuda:1"))
    assert filled(llama, Place("cpu", 15), Place("disk"), folder=tmp_path) is not None


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
        ("cpu,disk=/nowhere/at/all", "there is no folder /nowhere/at/all .* make it first"),
        (f"cpu,disk={__file__}", "test_placement.py is a file, and weights on disk need a folder"),
        ("cpu,cuda:99", "There is no cuda:99 on this machine"),
        ("cpu,cpu=2GB", "cpu stands twice"),
        ("cpu=2", "'2' is no size like 20GB"),
        ("cpu,mps", "shares the processor's memory"),
        ("cpu,abacus", "'abacus' is no device"),
        ("cpu,disk=/tmp,more", "A comma parts devices: a folder behind disk= can have none"),
    ],
)
def test_a_list_that_says_nothing_sensible(given: str, said: str) -> None:
    with pytest.raises(InputProblems, match=said):
        Placement.of(given)


def test_all_that_is_wrong_comes_at_once() -> None:
    with pytest.raises(InputProblems) as caught:
        Placement.of("abacus,cpu=2,disk=/nowhere/at/all")
    assert len(caught.value.problems) == 3


class Placed(Spec):
    """What any verb with a device is."""

    device: Devices = None


@pytest.mark.parametrize("given", [None, "cpu", "cuda", "cuda:1", "mps", "auto", "cuda:0,cpu=2GB"])
def test_a_spec_takes_what_some_machine_has(given: str | None) -> None:
    assert Placed(device=given).device == given


@pytest.mark.parametrize("given", ["potato", "cuda:x", "gpu", "cpu,potato", "cpu,disk=/nowhere"])
def test_a_spec_refuses_what_no_machine_has(given: str) -> None:
    with pytest.raises(InputProblems, match=r"is no device|there is no folder"):
        Placed(device=given)


def test_one_device_is_as_before() -> None:
    assert Placement.of("cpu") == Placement((Place("cpu"),))
    with pytest.raises(ModelError, match="'abacus' is no device"):
        Placement.of("abacus")


def test_auto_is_all_there_is(tiny_case: Callable[[str], Case]) -> None:
    devices = [place.device for place in Placement.of("auto").places]
    assert devices[-1] == "cpu"
    assert len(devices) == 1 + torch.cuda.device_count()
