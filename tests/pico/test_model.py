"""The class that is used is the model that is meant: every term against plain torch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lensbench.checkpoints.open import count_parameters
from lensbench.pico.model import config_of, new_model
from lensbench.pico.spec import PRESETS, PicoSpec, Plan, Preset
from tests.harness.pico import pico_spec


@pytest.mark.parametrize("preset", PRESETS)
def test_the_number_of_parameters_is_that_of_the_formula(preset: Preset) -> None:
    plan = PRESETS[preset]
    d, m, n_vocab = plan.width, plan.mlp_width, plan.vocabulary
    attention = 4 * d * d  # q, k, v, o, no biases
    mlp = 3 * d * m  # gate, up, down, no biases
    norms = 2 * 2 * d  # before each of the two: weight and bias
    total = plan.layers * (attention + mlp + norms) + 2 * d + 2 * n_vocab * d
    assert count_parameters(config_of(plan, n_vocab, 0)) == total


def test_full_is_the_published_size() -> None:
    plan = PRESETS["full"]
    assert (plan.width, plan.layers, plan.heads) == (448, 8, 7)
    assert (plan.width // plan.heads, plan.context, plan.max_position) == (64, 384, 512)
    config = config_of(plan, plan.vocabulary, 0)
    assert config.hidden_dropout == config.attention_dropout == 0.1
    assert plan.mlp_width == pytest.approx(8 / 3 * 448, abs=64)


def plain_states(weights: dict[str, Tensor], plan: Plan, ids: Tensor) -> list[Tensor]:
    """The embedding, the state after each block, and the logits, from the weights alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def times(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T

    n, width = len(ids), plan.width // plan.heads
    frequencies = 10_000.0 ** (-torch.arange(width // 2) * 2 / width)
    turn = torch.polar(torch.ones(n, width // 2), torch.arange(n)[:, None] * frequencies)

    def heads(x: Tensor) -> Tensor:
        return x.reshape(n, plan.heads, width).transpose(0, 1)  # [head, pos, width]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[..., : width // 2], x[..., width // 2 :]) * turn
        return torch.cat([pairs.real, pairs.imag], -1)

    x = weights["model.embed_tokens.weight"][ids]
    states = [x]
    for block in range(plan.layers):
        at = f"model.layers.{block}"
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (heads(times(h, f"{at}.self_attn.{one}_proj")) for one in "qkv")
        scores = turned(q) @ turned(k).transpose(1, 2) / math.sqrt(width)
        ahead = torch.ones(n, n).triu(1).bool()
        pattern = scores.masked_fill(ahead, -math.inf).softmax(-1)
        x = x + times((pattern @ v).transpose(0, 1).reshape(n, -1), f"{at}.self_attn.o_proj")
        h = norm(x, f"{at}.post_attention_layernorm")
        gate = times(h, f"{at}.mlp.gate_proj")
        x = x + times(gate * gate.sigmoid() * times(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        states.append(x)
    return [*states, times(norm(x, "model.norm"), "lm_head")]


@pytest.mark.parametrize("preset", ["tiny", "full"])
def test_its_forward_pass_is_that_of_plain_torch(preset: Preset) -> None:
    plan = PRESETS[preset]
    model = new_model(config_of(plan, 320, 0), seed=0).eval()
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():  # or a bias of 0 and a norm of 1 would not be seen
            weight.add_(0.1 * torch.randn(weight.shape, generator=chance) / weight.shape[-1] ** 0.5)
        ids = torch.randint(320, (40,), generator=chance)
        expected = plain_states(dict(model.state_dict()), plan, ids)
        seen = model(ids[None], output_hidden_states=True)
    *states, _ = seen.hidden_states  # the last one is normed
    for own, other in zip([*states, seen.logits], [*expected[:-2], expected[-1]], strict=True):
        assert torch.allclose(own[0], other, atol=2e-5 * float(other.abs().max()))


def test_the_seed_decides_the_weights_and_nobody_elses_numbers() -> None:
    config = config_of(PRESETS["tiny"], 320, 0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (new_model(config, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_width_that_heads_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give a multiple of 6"):
        pico_spec(tmp_path, tmp_path, heads=3)


def test_steps_that_are_kept_are_even_in_log2() -> None:
    plan = PicoSpec(out=Path("x"), steps=100).plan
    assert plan.kept == [0, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 100]
