"""Capture at any site: the numbers of Hugging Face's own modules, for every tiny family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensbench import residual_stream
from lensbench.errors import ModelError
from lensbench.lens.gate import SITE_IDENTITIES
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.sites import STREAM, Site
from lensbench.prompts.batch import PaddingSide, make_batch
from lensbench.residuals.capture import capture_positions, watch
from tests.harness.reference import Reference
from tests.harness.tiny import TINY, Case, save

LONG = 2  # of PROMPTS: longer than every sliding window


class Parts:
    """What each block of a Hugging Face model computes on its way, its attention run eagerly.

    Nothing of TransformerLens is in here: attention patterns are the model's `output_attentions`,
    parts are taken from the stream by subtraction, heads are products by hand.
    """

    def __init__(self, case: Case, ids: Sequence[int]) -> None:
        self.case, self.ids = case, ids

    @cached_property
    def hf(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            self.case.folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    @cached_property
    def stream(self) -> dict[tuple[str, int], torch.Tensor]:
        return Reference(self.hf, self.case.row).run(self.ids)[0]

    @cached_property
    def patterns(self) -> list[torch.Tensor]:
        """Per block, [head, query, key]."""
        with torch.no_grad():
            out = self.hf(torch.tensor([list(self.ids)]), output_attentions=True)
        return [pattern[0] for pattern in out.attentions]

    @cached_property
    def heads(self) -> list[torch.Tensor]:
        """Per block, [pos, head, d_model]: each head's slice of the output projection's product."""
        inputs: list[torch.Tensor] = []
        handles = [
            module.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
            for module in map(projection, self.blocks)
        ]
        with torch.no_grad():
            self.hf(torch.tensor([list(self.ids)]))
        for handle in handles:
            handle.remove()
        scale = getattr(self.hf.config, "residual_multiplier", 1.0)
        n_heads = self.hf.config.num_attention_heads
        found = []
        for x, block in zip(inputs, self.blocks, strict=True):
            weight = projection(block).weight.detach()
            weight = weight if type(projection(block)).__name__ == "Conv1D" else weight.T
            z, w = x.unflatten(-1, (n_heads, -1)), weight.unflatten(0, (n_heads, -1))
            found.append(scale * torch.stack([z[:, h] @ w[h] for h in range(n_heads)], dim=1))
        return found

    def added(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention and the MLP of a block add to the stream, each [pos, d_model]."""
        name, number = ("embed", 0) if layer == 1 else ("resid_post", layer - 1)
        before, after = self.stream[name, number], self.stream["resid_post", layer]
        if self.case.row.ln2 is not None:
            middle = self.stream["resid_mid", layer]
            return middle - before, after - middle
        attention = self.heads[layer - 1].sum(1)
        bias = projection(self.blocks[layer - 1]).bias
        attention = attention if bias is None else attention + bias.detach()
        return attention, after - before - attention

    @property
    def blocks(self) -> list[torch.nn.Module]:
        return Reference(self.hf, self.case.row).blocks


def first(module: torch.nn.Module, *names: str) -> Any:
    return next(getattr(module, name) for name in names if hasattr(module, name))


def projection(block: torch.nn.Module) -> Any:
    """The output projection of a block's attention."""
    return first(first(block, "self_attn", "attn", "attention"), "o_proj", "c_proj", "dense")


@pytest.fixture(scope="module")
def parts(family: Case) -> Parts:
    return Parts(family, family.token_ids[LONG])


def seen(model: LensModel, ids: Sequence[int], sites: Sequence[Site]) -> dict[Site, torch.Tensor]:
    """The values at some sites of one prompt, without its axis."""
    found: dict[Site, torch.Tensor] = {}

    def see(site: Site, value: torch.Tensor) -> None:
        found[site] = value[0].clone()

    watch(model, make_batch([0], [ids]), sites, see)
    return found


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=1e-4)


# The values.


def test_patterns_are_hugging_face_s(family: Case, parts: Parts) -> None:
    found = seen(family.model, parts.ids, family.model.sites("pattern"))
    assert len(found) == family.model.n_layers
    for site, pattern in found.items():
        close(pattern, parts.patterns[site.layer - 1])


def test_what_attention_and_mlp_add_is_hugging_face_s(family: Case, parts: Parts) -> None:
    residuals = residual_stream(family.model, parts.ids, ("attn_out", "mlp_out"))
    for layer in range(1, family.model.n_layers + 1):
        attention, mlp = parts.added(layer)
        close(residuals.at(Site("attn_out", layer)), attention)
        close(residuals.at(Site("mlp_out", layer)), mlp)


def test_the_outputs_of_heads_are_hugging_face_s(family: Case, parts: Parts) -> None:
    residuals = residual_stream(family.model, parts.ids, "head_out")
    assert len(residuals.sites) == family.model.n_layers * family.model.n_heads
    for site in residuals.sites:
        close(residuals.at(site), parts.heads[site.layer - 1][:, site.head])


def test_one_head_is_a_part_of_all(llama: Case) -> None:
    ids = llama.token_ids[LONG]
    wanted = [
        Site("pattern", 2),
        Site("pattern", 2, 3),
        Site("head_out", 2),
        Site("head_out", 2, 1),
    ]
    found = seen(llama.model, ids, [*wanted, Site("attn.hook_z", 2), Site("attn.hook_z", 2, 1)])
    assert torch.equal(found[wanted[1]], found[wanted[0]][3])
    assert torch.equal(found[wanted[3]], found[wanted[2]][:, 1])
    whole, one = found[Site("attn.hook_z", 2)], found[Site("attn.hook_z", 2, 1)]
    assert torch.equal(one, whole[:, 1])


def test_watching_heads_leaves_the_model_as_it_was(family: Case) -> None:
    ids = family.token_ids[0]
    before = residual_stream(family.model, ids)
    seen(family.model, ids, family.model.sites("head_out"))
    after = residual_stream(family.model, ids)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.stream, after.stream)


def test_values_come_one_by_one_in_the_order_of_the_pass(family: Case) -> None:
    """So that whoever reduces them holds one at a time."""
    order: list[Site] = []
    kinds = (*STREAM, "pattern", "attn_out", "mlp_out")
    sites = family.model.sites(kinds)
    batch = make_batch([0], [family.token_ids[0]])
    watch(family.model, batch, sites[::-1], lambda site, value: order.append(site))
    assert {site.layer for site in order} == set(range(family.model.n_layers + 1))
    layers = [site.layer for site in order]
    assert layers == sorted(layers)


# What must hold, by kind of site.


@pytest.mark.parametrize("kind", SITE_IDENTITIES)
def test_every_identity_holds_for_every_family(family: Case, kind: str) -> None:
    for ids in family.token_ids:
        found = SITE_IDENTITIES[kind].measure(family.model, make_batch([0], [ids]))
        assert found.passed
        assert found.error is not None
        assert found.error < 2e-6


def broken(case: Case, hook: str, change: Callable[[torch.Tensor], torch.Tensor]) -> LensModel:
    """The model with one of its activations changed for good."""
    model = load_model(case.folder, device="cpu")
    model.bridge.hook_dict[hook].add_hook(lambda x, hook: change(x), is_permanent=True)
    return model


def without_head(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, :, 1] = 0.0
    return x


def looking_ahead(pattern: torch.Tensor) -> torch.Tensor:
    """Rows still sum to 1."""
    return pattern.roll(1, dims=-1)


@pytest.mark.parametrize(
    ("kind", "hook", "change"),
    [
        ("resid_post", "blocks.1.hook_out", lambda x: 0.9 * x),
        ("pattern", "blocks.1.attn.hook_pattern", lambda x: 0.9 * x),
        ("pattern", "blocks.1.attn.hook_pattern", looking_ahead),
        ("pattern", "blocks.2.attn.hook_pattern", lambda x: x * float("nan")),
    ],
)
def test_what_does_not_hold_fails(
    llama: Case, kind: str, hook: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    batch = make_batch([0], [llama.token_ids[0]])
    intact = SITE_IDENTITIES[kind].measure(llama.model, batch)
    found = SITE_IDENTITIES[kind].measure(broken(llama, hook, change), batch)
    assert (intact.passed, found.passed) == (True, False)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "granite"])
def test_a_head_that_is_forgotten_fails(name: str, tiny_case: Callable[[str], Case]) -> None:
    model = broken(tiny_case(name), "blocks.1.attn.hook_result", without_head)
    batch = make_batch([0], [tiny_case(name).token_ids[0]])
    found = SITE_IDENTITIES["head_out"].measure(model, batch)
    assert found.passed is False
    assert (found.error or 0.0) > 0.01


def test_a_bias_that_is_forgotten_fails(gpt2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([0], [gpt2.token_ids[0]])
    kind = type(gpt2.model.bridge.blocks[0].attn)
    monkeypatch.setattr(kind, "b_O", property(lambda attention: None))
    assert SITE_IDENTITIES["head_out"].measure(gpt2.model, batch).passed is False


def test_heads_of_packed_weights_are_refused(llama: Case) -> None:
    """A product with packed numbers would be wrong, not just rounded."""
    model = load_model(f"{llama.folder}@8", device="cpu")
    batch = make_batch([0], [llama.token_ids[0]])
    with pytest.raises(ModelError, match=r"no separate outputs of heads: block 0 .*Linear8bitLt"):
        watch(model, batch, model.sites("head_out"), lambda site, value: None)
    found = SITE_IDENTITIES["head_out"].measure(model, batch)
    assert (found.passed, found.error) == (None, None)
    assert "unquantised" in found.reason


class Through:
    """A bridge seen through something that changes one thing about it."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bridge, name)


class Hidden(Through):
    """Without one hook point."""

    @property
    def hook_dict(self) -> dict[str, Any]:
        hooks = self.bridge.hook_dict.items()
        return {name: hook for name, hook in hooks if name != "blocks.1.hook_mlp_out"}


class Silent(Through):
    """With a hook point that never fires."""

    def run_with_hooks(self, ids: Any, fwd_hooks: Any, **inputs: Any) -> Any:
        heard = [(name, hook) for name, hook in fwd_hooks if name != "blocks.1.hook_mlp_out"]
        return self.bridge.run_with_hooks(ids, fwd_hooks=heard, **inputs)


def test_a_model_that_does_not_show_a_part_is_not_testable(llama: Case) -> None:
    model = replace(llama.model, bridge=Hidden(llama.model.bridge))
    found = SITE_IDENTITIES["resid_post"].measure(model, make_batch([0], [llama.token_ids[0]]))
    assert found.passed is None
    assert found.reason == "1 of 3 blocks of this architecture do not expose mlp_out"


@pytest.mark.real
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_the_identities_of_the_demo_model(smollm_folder: Path, dtype: str) -> None:
    model = load_model("smollm2-135m", dtype=dtype, device="cpu")
    batch = make_batch([0], [model.tokenizer("The capital of Germany is").input_ids])
    for identity in SITE_IDENTITIES.values():
        assert identity.measure(model, batch).passed, identity.identity


def test_a_site_that_the_pass_does_not_come_by_is_said(llama: Case) -> None:
    """Not a stretch of memory that nobody wrote to."""
    model = replace(llama.model, bridge=Silent(llama.model.bridge))
    with pytest.raises(ModelError, match=r"llama never computes blocks\.1\.mlp_out$"):
        residual_stream(model, "Rome", ("mlp_out", "resid_post"))


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("hook_mlp_in", "set_use_hook_mlp_in"),
        ("hook_attn_in", "set_use_attn_in"),
        ("attn.hook_result", "set_use_attn_result"),
    ],
)
def test_a_site_that_is_switched_off_is_said_with_its_switch(
    llama: Case, name: str, switch: str
) -> None:
    batch, site = make_batch([0], [llama.token_ids[0]]), Site(name, 1)
    with pytest.raises(ModelError, match=rf"{name}.*{switch}\(True\)"):
        watch(llama.model, batch, [site], lambda site, value: None)
    seen: list[Site] = []
    getattr(llama.model.bridge, switch)(True)
    try:
        watch(llama.model, batch, [site], lambda site, value: seen.append(site))
    finally:
        getattr(llama.model.bridge, switch)(False)
    assert seen == [site]


@pytest.mark.parametrize("prefix", [0, 40])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_head_is_asked_for_the_columns_that_are_read_only(
    family: Case, prefix: int, side: PaddingSide
) -> None:
    """The model's own logits, by Hugging Face, at each prompt's last position and an early one."""
    model = family.model
    text = list(family.token_ids[LONG])
    ids = [[5] * prefix + own for own in (text[:9], text[3:15])]
    positions = [(2, len(own) - 1) for own in ids]
    residuals = capture_positions(model, ids, positions, [model.final_site], side)
    assert residuals.logits.shape[1] < max(map(len, ids))
    found = residuals.model_logits(slice(0, len(residuals.cells)))
    with torch.no_grad():
        own = [family.hf(torch.tensor([one])).logits[0] for one in ids]
    wanted = torch.cat([one[list(places)] for one, places in zip(own, positions, strict=True)])
    torch.testing.assert_close(found, wanted.float(), atol=1e-4, rtol=1e-4)
    assert not residuals.broken_rows()


@pytest.mark.parametrize("prefix", [0, 40])
def test_without_the_head_the_states_are_the_same_and_the_next_pass_is_whole(
    family: Case, prefix: int
) -> None:
    """A pass that is broken off leaves nothing behind, with a prefix that is run once too."""
    model = family.model
    ids = [[5] * prefix + list(own[:12]) for own in family.token_ids]
    positions = [range(len(own)) for own in ids]
    sites = model.sites(("embed", "resid_post"))
    whole = capture_positions(model, ids, positions, sites)
    states = capture_positions(model, ids, positions, sites, head=False)
    assert torch.equal(states.stream, whole.stream) and states.cells == whole.cells
    assert states.logits.shape == (*whole.logits.shape[:2], 0)
    below = capture_positions(model, ids, positions, sites[:1], head=False)
    assert torch.equal(below.stream, whole.stream[:1])
    after = capture_positions(model, ids, positions, sites)
    assert torch.equal(after.logits, whole.logits) and torch.equal(after.stream, whole.stream)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A llama whose heads are wider than its stream: 8 of 8 numbers on 32, two of them a key."""
    folder = tmp_path_factory.mktemp("wide") / "wide"
    shape = {"num_attention_heads": 8, "head_dim": 8, "num_key_value_heads": 4}
    return Case("wide", TINY["llama"], save(TINY["llama"], folder, shape))


def test_grouped_queries_whose_heads_do_not_tile_the_stream(changed: Case) -> None:
    parts = Parts(changed, changed.token_ids[LONG])
    residuals = residual_stream(changed.model, parts.ids, "head_out")
    for site in residuals.sites:
        close(residuals.at(site), parts.heads[site.layer - 1][:, site.head])
    found = seen(changed.model, parts.ids, changed.model.sites("pattern"))
    for site, pattern in found.items():
        close(pattern, parts.patterns[site.layer - 1])
