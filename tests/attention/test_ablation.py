"""Ablation and direct effects: hooks in plain transformers, closed forms, TransformerLens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.attention.causal import ablation
from lensbench.attention.causal.ablation import (
    NO_ANSWER,
    ablated,
    every_head,
    mean_outputs,
    nested,
)
from lensbench.attention.causal.direct import direct_effects
from lensbench.attention.causal.redundancy import halves, redundancy, sizes_of
from lensbench.attention.causal.tables import Ablator
from lensbench.errors import GateError, InputProblems
from tests.harness.ablated import Plain, projection
from tests.harness.causal_lms import save_tiny
from tests.harness.planted import (
    CURRENT,
    FIRST,
    INDUCTION,
    PREVIOUS,
    planted,
    repeated,
)
from tests.harness.tiny import Case, Tiny

# Grouped queries, windows and a norm behind attention; joint q/k/v; attention beside the MLP. Every
# family in turn is slow.
CHOSEN = ("gemma2", "gpt2", "phi")


@pytest.fixture(params=CHOSEN)
def chosen(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def test_every_ablation_is_that_of_hooks_in_plain_transformers(chosen: Case) -> None:
    require_ablations(chosen)


@pytest.mark.slow
def test_ablations_of_every_family(family: Case) -> None:
    require_ablations(family)


@pytest.mark.parametrize("kind", ["gemma4_text", "deepseek_v3"])
def test_heads_of_several_widths_and_latent_ones_are_ablated(kind: str, tmp_path: Path) -> None:
    """They have no weights that can be read head by head: of those there is nothing to tell."""
    case = Case(kind, Tiny(kind, {}, "bytes"), save_tiny(kind, tmp_path))
    require_ablations(case)
    assert not Ablator(case.model, [], [], 64).has_weights


def require_ablations(family: Case) -> None:
    """Single heads of the first, a middle and the last block, and a group over two blocks."""
    prompts = [ids for ids in family.token_ids if len(ids) > 1]
    answers = [5 + 7 * number for number in range(len(prompts))]
    groups = [[(0, 1)], [(1, 3)], [(2, 0)], [(2, 2)], [(1, 0), (2, 0), (2, 3)]]
    found = ablated(family.model, prompts, groups, answers, batch_tokens=40)
    plain = Plain(family)
    means = plain.means(prompts)
    for p, (ids, answer) in enumerate(zip(prompts, answers, strict=True)):
        clean, clean_answer = plain.nats(ids, answer)
        assert found.clean[p] == pytest.approx(clean, abs=2e-3)
        assert found.clean_answer[p] == pytest.approx(clean_answer, abs=2e-3)
        for g, group in enumerate(groups):
            with plain.without(group, means):
                loss, own = plain.nats(ids, answer)
            assert found.without[p, g] == pytest.approx(loss, abs=2e-3)
            assert found.without_answer[p, g] == pytest.approx(own, abs=2e-3)
            change = (loss - clean) / (len(ids) - 1)
            assert found.change[p, g] == pytest.approx(change, abs=1e-3)
    assert np.abs(found.change).max() > 0.01  # something happened


def test_what_stands_together_in_a_batch_changes_nothing(llama: Case) -> None:
    prompts = [ids for ids in llama.token_ids if len(ids) > 1]
    means = mean_outputs(llama.model, prompts)
    groups = [[head] for head in every_head(llama.model)]
    alone = ablated(llama.model, prompts, groups, batch_tokens=1, means=means)
    together = ablated(llama.model, prompts, groups, batch_tokens=4096, means=means)
    np.testing.assert_allclose(alone.without, together.without, atol=2e-4)
    np.testing.assert_array_equal(alone.n_tokens, together.n_tokens)
    assert np.isnan(alone.clean_answer).all()
    assert np.isnan(alone.without_answer).all()


def test_only_those_with_an_answer_have_a_change_of_it(gpt2: Case) -> None:
    found = ablated(gpt2.model, [[4, 5, 6], [7, 8]], [[(0, 0)]], [NO_ANSWER, 9])
    assert np.isnan(found.answer_change[0, 0])
    assert np.isfinite(found.answer_change[1, 0])


def test_blocks_below_are_not_run_again(gpt2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the cost of the passes from each head's block on, and two over the prompts."""
    model, prompts = gpt2.model, [list(range(4, 12)), list(range(20, 28))]
    rows = [0] * model.n_layers
    handles = [
        block.mlp.register_forward_pre_hook(
            lambda module, args, number=number: rows.__setitem__(
                number, rows[number] + args[0].shape[0]
            )
        )
        for number, block in enumerate(model.bridge.blocks)
    ]
    ablated(model, prompts, [[head] for head in every_head(model)])
    for handle in handles:
        handle.remove()
    own = [len(prompts) * model.n_heads * (block + 1) for block in range(model.n_layers)]
    gate = [0, 1, 1]  # one pass of the gate, from the middle on
    assert rows == [own[i] + (2 + gate[i]) * len(prompts) for i in range(model.n_layers)]


def test_a_model_that_cannot_begin_in_the_middle_is_refused(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ablation.resumed
    monkeypatch.setattr(ablation, "resumed", lambda *args: real(*args) + torch.arange(384.0) / 50)
    with pytest.raises(GateError, match="begins at block 1 gives another output"):
        ablated(llama.model, [[4, 5, 6]], [[(0, 0)]])


def test_the_blocks_are_as_before(llama: Case) -> None:
    ablated(llama.model, [[4, 5, 6]], [[(2, 0)]])
    assert all("forward" not in vars(block) for block in llama.model.bridge.blocks)


def test_a_prompt_of_one_token_predicts_nothing(llama: Case) -> None:
    with pytest.raises(InputProblems, match="prompt 1: it is one token"):
        ablated(llama.model, [[4, 5], [4]], [[(0, 0)]])


def test_planted_heads_are_needed_and_those_that_move_nothing_are_not() -> None:
    """Of repeated tokens the induction head says the second copy; without either, nothing does."""
    model = planted()
    prompts = [repeated(12, seed) for seed in range(6)]
    heads = every_head(model)
    found = ablated(model, prompts, [[head] for head in heads])
    change = dict(zip(heads, found.change.mean(0), strict=True))
    assert change[CURRENT] == pytest.approx(0, abs=1e-6)
    assert change[FIRST] == pytest.approx(0, abs=1e-6)
    assert change[PREVIOUS] > 0.5
    assert change[INDUCTION] > 0.5
    curve = redundancy(model, prompts, heads, found.change)
    assert set(curve.order[:2]) == {CURRENT, FIRST}
    assert curve.sizes == [1, 2, 3]
    assert curve.prompts == [1, 3, 5]
    assert np.abs(curve.change[:, :2]).max() < 1e-6
    assert curve.change[:, 2].min() > 0.5


def test_an_order_is_chosen_on_one_half_and_measured_on_the_other(gpt2: Case) -> None:
    prompts = [list(range(start, start + 9)) for start in (4, 30, 61, 90)]
    heads, means = every_head(gpt2.model), mean_outputs(gpt2.model, prompts)
    found = ablated(gpt2.model, prompts, [[head] for head in heads], means=means)
    curve = redundancy(gpt2.model, prompts, heads, found.change, means)
    ranked = np.argsort(found.change[[0, 2]].mean(0))
    assert curve.order == [heads[i] for i in ranked]
    groups = [list(curve.order[:size]) for size in curve.sizes]
    again = ablated(gpt2.model, [prompts[1], prompts[3]], groups, means=means)
    np.testing.assert_allclose(curve.change, again.change, atol=1e-5)


def test_halves_sizes_and_nested_groups() -> None:
    assert halves(5) == ([0, 2, 4], [1, 3])
    assert sizes_of(1) == [1]
    assert sizes_of(4) == [1, 2, 3]
    assert sizes_of(270)[0] == 1
    assert sizes_of(270)[-1] == 269
    assert list(nested([(0, 1), (1, 0)], [1, 2])) == [[(0, 1)], [(0, 1), (1, 0)]]


def test_direct_effects_are_what_heads_add_to_the_logit(chosen: Case) -> None:
    require_effects(chosen)


@pytest.mark.slow
def test_direct_effects_of_every_family(family: Case) -> None:
    require_effects(family)


def require_effects(family: Case) -> None:
    """Every head's part by hand from the projection's input, in Hugging Face's own modules."""
    prompts = [ids for ids in family.token_ids if len(ids) > 1][:2]
    answers = [9, 77]
    found = direct_effects(family.model, prompts, answers)
    plain = Plain(family)
    for p, (ids, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = effects_by_hand(family, plain, ids, answer)
        torch.testing.assert_close(found[p], expected, rtol=2e-3, atol=2e-3)


def effects_by_hand(case: Case, plain: Plain, ids: Sequence[int], answer: int) -> torch.Tensor:
    """By differences: the logit of the final state, less that without the head, its length held."""
    backbone = getattr(plain.hf, case.row.backbone)
    final, d_model = getattr(backbone, case.row.final_norm), plain.hf.config.hidden_size
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    last: list[torch.Tensor] = []
    handles = [final.register_forward_pre_hook(lambda m, args: last.append(args[0][0, -1]))]
    for number, block in enumerate(plain.blocks):

        def keep(module: Any, args: Any, out: torch.Tensor, number: int = number) -> None:
            inputs[number], outputs[number] = args[0][0, -1], out[0, -1]

        handles.append(projection(block).register_forward_hook(keep))
    plain.logits(ids)
    for handle in handles:
        handle.remove()
    x, head = last[0], plain.hf.get_output_embeddings().weight.detach()
    scale = getattr(plain.hf.config, "logit_scale", 1.0)
    scale /= getattr(plain.hf.config, "logits_scaling", 1.0)
    towards = scale * (head[answer] - head.mean(0))
    found = torch.empty(len(plain.blocks), plain.n_heads)
    for number, block in enumerate(plain.blocks):
        module, z = projection(block), inputs[number]
        weight = module.weight.detach()
        weight = weight if type(module).__name__ == "Conv1D" else weight.T  # [in, d_model]
        width = len(z) // plain.n_heads
        for h in range(plain.n_heads):
            part = slice(h * width, (h + 1) * width)
            wrote = z[part] @ weight[part] * getattr(plain.hf.config, "residual_multiplier", 1.0)
            if case.row.ln2 == "pre_feedforward_layernorm":  # Gemma's norm behind attention
                norm, whole = block.post_attention_layernorm, outputs[number]
                wrote = wrote * (norm(whole[None])[0] / whole)
            found[number, h] = linear(final, x, wrote, case.row.norm == "LN") @ towards
    assert d_model == len(x)
    return found


def linear(
    norm: torch.nn.Module, x: torch.Tensor, part: torch.Tensor, centres: bool
) -> torch.Tensor:
    """What a part of x becomes in norm(x), x's length held: dimension by dimension."""
    with torch.no_grad():
        bias = getattr(norm, "bias", None)
        whole = norm(x[None])[0] - (0.0 if bias is None else bias)
        factor = whole / (x - x.mean() if centres else x)
        return factor * (part - part.mean() if centres else part)


def test_direct_effects_are_transformerlens(gpt2: Case) -> None:
    """Its attribution needs weights folded in, in place: of a model of its own."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import direct_logit_attribution

    ids, answer = gpt2.token_ids[2], 9
    found = direct_effects(gpt2.model, [ids], [answer])[0]
    bridge = TransformerBridge.boot_transformers(
        "gpt2", hf_model=gpt2.fresh_hf(), tokenizer=gpt2.model.tokenizer, device="cpu"
    )
    bridge.enable_compatibility_mode(fold_value_biases=False)
    theirs = direct_logit_attribution(
        bridge, torch.tensor([ids]), answer_tokens=answer, unit="head"
    )
    n = gpt2.model.n_layers * gpt2.model.n_heads
    expected = theirs.attribution.flatten()[:n].reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
