"""What prompts have in common at their start is run once, and changes no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.models import prefix
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.residuals.capture import capture_positions
from tests.harness.families import distinct_families
from tests.harness.tiny import Case

N = 20  # tokens in common: more than every tiny sliding window


def prompts(d_vocab: int) -> list[list[int]]:
    chance = torch.Generator().manual_seed(0)

    def drawn(n: int) -> list[int]:
        found: list[int] = torch.randint(5, d_vocab, (n,), generator=chance).tolist()
        return found

    shared = drawn(N)
    return [shared + drawn(n) for n in (3, 7, 1, 9)]


def passes(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what the model is run on, from now on."""
    seen: list[tuple[int, ...]] = []
    run = model.bridge.run_with_hooks

    def counted(ids: torch.Tensor, **more: Any) -> Any:
        seen.append(tuple(ids.shape))
        return run(ids, **more)

    monkeypatch.setattr(model.bridge, "run_with_hooks", counted)
    return seen


@distinct_families
@pytest.mark.parametrize("positions", ["last", "all", "some"])
def test_prompts_behind_a_prefix_are_whole_prompts(
    family: Case, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against each prompt run by itself, by Hugging Face's own class."""
    model = load_model(family.folder, device="cpu")
    ids = prompts(model.d_vocab)
    wanted = {
        "last": [[len(own) - 1] for own in ids],
        "all": [list(range(len(own))) for own in ids],
        "some": [[0, N - 1], [N, 2], [], [5]],
    }[positions]
    assert model.shares_prefixes
    seen = passes(model, monkeypatch)
    found = capture_positions(model, ids, wanted, model.sites(("embed", "resid_mid", "resid_post")))
    assert seen == [(1, N), (4, 9)]
    assert found.stream.isfinite().all() and found.logits.isfinite().all()
    cell = 0
    for row, (own, where) in enumerate(zip(ids, wanted, strict=True)):
        alone = capture_positions(model, [own], [where or [0]], found.sites)
        for i in range(len(where)):
            assert found.cells[cell] == (row, where[i])
            torch.testing.assert_close(
                found.stream[:, cell], alone.stream[:, i], rtol=1e-4, atol=1e-4
            )
            cell += 1
        with torch.no_grad():
            logits = family.hf(torch.tensor([own])).logits[0, where]
        if where:
            read = found.model_logits(slice(cell - len(where), cell))
            torch.testing.assert_close(read, logits, rtol=1e-4, atol=1e-3)


def test_a_short_prefix_or_left_padding_is_one_pass(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(llama.folder, device="cpu")
    ids = prompts(model.d_vocab)
    last = [[len(own) - 1] for own in ids]
    seen = passes(model, monkeypatch)
    capture_positions(model, ids, last, model.sites(), padding_side="left")
    short = [own[N - prefix.LEAST + 1 :] for own in ids]
    capture_positions(model, short, [[len(own) - 1] for own in short], model.sites())
    assert [shape[0] for shape in seen] == [4, 4]


def test_a_model_whose_length_decides_its_rotation_shares_nothing(
    tiny_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_case("llama").folder, device="cpu")
    monkeypatch.setattr(LensModel, "rope_switch", 8)
    assert not model.shares_prefixes


def test_a_model_that_forgets_its_prefix_is_found_out(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(llama.folder, device="cpu")
    run = model.bridge.run_with_hooks

    def forgetful(ids: torch.Tensor, **more: Any) -> Any:
        cache = more.pop("past_key_values", None)
        if cache is None or not cache.get_seq_length():
            return run(ids, **more, **({} if cache is None else {"past_key_values": cache}))
        more["attention_mask"] = more["attention_mask"][:, -ids.shape[1] :]
        more.pop("use_cache")
        return run(ids, **more), cache

    monkeypatch.setattr(model.bridge, "run_with_hooks", forgetful)
    assert not model.shares_prefixes


@given(
    shared=st.integers(0, 40),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_the_prefix_is_what_all_begin_with_and_leaves_each_a_token(
    shared: int, lengths: list[int]
) -> None:
    ids = [[7] * shared + [100 + row] * n for row, n in enumerate(lengths)]
    ids = [own or [1] for own in ids]
    n = prefix.common_prefix(ids)
    assert all(own[:n] == ids[0][:n] for own in ids)
    assert all(len(own) > n for own in ids)
    expected = min(shared, min(map(len, ids)) - 1) if len(ids) > 1 else 0
    assert n == (expected if expected >= prefix.LEAST else 0)
