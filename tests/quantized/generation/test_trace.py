"""Tracing: the means are those of Hugging Face's own hidden states, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lensbench.quantized.generation.generate import Generation, generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.generation.trace import ResidualMeans, _Sum
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.adapted import adapted, ending, prompts_of
from tests.harness.families import distinct_families
from tests.harness.tiny import Case

N_NEW = 10
GREEDY = Decoding(max_new_tokens=N_NEW)


def hidden_states(case: Case, model: AdaptedModel, ids: Sequence[int]) -> list[Tensor]:
    """Every layer's residual stream [pos, d_model] of one sequence, fed as a whole.

    Hugging Face norms the last one; what enters its final norm takes that one's place.
    """
    entering: list[Tensor] = []
    backbone = model.base.base_model
    norm = getattr(backbone, case.row.final_norm)
    handle = norm.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    with torch.no_grad():
        states = model.base(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    handle.remove()
    return [state[0] for state in (*states[:-1], entering[0])]


def n_hooks(model: AdaptedModel) -> int:
    modules = list(model.hf.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def traced(
    model: AdaptedModel, decoding: Decoding = GREEDY, keep: Sequence[int] = ()
) -> tuple[ResidualMeans, list[Generation]]:
    tracer = ResidualMeans(model, keep)
    return tracer, generate(model, prompts_of(model), decoding, tracer=tracer)


def check_means(
    tracer: ResidualMeans, row: int, prompt: Sequence[int], states: list[Tensor], **how: float
) -> None:
    """Against the plain mean of the whole sequence's states, in float64."""
    n_prompt = len(prompt)
    parts = {"prompt": slice(0, n_prompt), "generated": slice(n_prompt, None)}
    for span, part in parts.items():
        for layer, state in enumerate(states):
            tokens = state[part].double()
            np.testing.assert_allclose(tracer.means(span)[layer, row], tokens.mean(0), **how)
            norm = tokens.norm(dim=-1).mean()
            np.testing.assert_allclose(tracer.mean_norms(span)[layer, row], norm, **how)


def test_means_are_those_of_the_hidden_states_of_prompt_and_response(family: Case) -> None:
    model = ending(family, N_NEW)
    tracer, made = traced(model)
    lengths = [len(generation.token_ids) for generation in made]
    assert len(set(lengths)) > 1, "some rows must end before the batch does"
    assert tracer.n_tokens("generated").tolist() == lengths
    assert tracer.n_tokens("prompt").tolist() == [len(p) for p in prompts_of(model)]
    for row, prompt in enumerate(prompts_of(model)):
        states = hidden_states(family, model, [*prompt, *made[row].token_ids])
        scale = max(float(state.abs().max()) for state in states)
        check_means(tracer, row, prompt, states, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize(
    "decoding",
    [GREEDY, Decoding(N_NEW, temperature=1.2, top_k=50, repetition_penalty=1.3)],
    ids=["greedy", "sampled"],
)
@distinct_families
def test_traced_and_untraced_outputs_are_identical(family: Case, decoding: Decoding) -> None:
    model = ending(family, N_NEW)
    _, made = traced(model, decoding, keep=[0, 1])
    assert made == generate(model, prompts_of(model), decoding)


def test_a_rows_trace_does_not_depend_on_when_its_neighbours_end(llama: Case) -> None:
    """Alone, a row ends the batch, and its last token is fed by nobody but the tracer's step."""
    model = ending(llama, N_NEW)
    together, made = traced(model)
    for row, prompt in enumerate(prompts_of(model)):
        single = ResidualMeans(model)
        generate(model, [prompt], GREEDY, tracer=single)
        assert single.n_tokens("generated").tolist() == [len(made[row].token_ids)]
        for span in ("prompt", "generated"):
            a, b = together.means(span)[:, row], single.means(span)[:, 0]
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_response_of_one_token(llama: Case) -> None:
    model = adapted(llama)
    tracer, made = traced(model, Decoding(max_new_tokens=1))
    assert tracer.n_tokens("generated").tolist() == [1, 1, 1, 1]
    for row, prompt in enumerate(prompts_of(model)):
        states = hidden_states(llama, model, [*prompt, *made[row].token_ids])
        check_means(tracer, row, prompt, states, rtol=1e-4, atol=1e-5)


@distinct_families
def test_kept_residuals_are_the_hidden_states(family: Case) -> None:
    model = ending(family, N_NEW)
    tracer, made = traced(model, keep=[0, 2, 3])
    for row, prompt in enumerate(prompts_of(model)):
        states = hidden_states(family, model, [*prompt, *made[row].token_ids])
        for layer in (0, 2, 3):
            scale = float(states[layer].abs().max())
            kept = tracer.kept(layer, row)
            assert kept.shape == states[layer].shape
            np.testing.assert_allclose(kept, states[layer], rtol=1e-3, atol=1e-5 * scale)


def test_what_padding_holds_does_not_matter(llama: Case) -> None:
    """Even NaN: it is left out, not multiplied by zero."""
    model = adapted(llama)
    tracer = ResidualMeans(model)
    with tracer.watching(torch.tensor([[0, 1, 1], [1, 1, 1]])):
        stream = torch.ones(2, 3, model.d_model)
        stream[0, 0] = torch.nan
        tracer._add(1, stream)
    assert tracer._spans["prompt"].stream.total[1].tolist() == [
        [2.0] * model.d_model,
        [3.0] * model.d_model,
    ]


def test_the_sum_loses_nothing_over_many_steps() -> None:
    """A large start and 10,000 small steps, each below float32's resolution at that size."""
    total = _Sum(1, 2, device=torch.device("cpu"))
    total.add(0, torch.tensor([1e6, -3e4]))
    step = torch.tensor([0.01, 1e-4])
    for _ in range(10_000):
        total.add(0, step)
    exact = np.array([1e6, -3e4]) + 10_000 * step.double().numpy()
    np.testing.assert_allclose(total.total[0].double(), exact, rtol=1e-7)
    plain = torch.tensor([1e6, -3e4])
    for _ in range(10_000):
        plain += step
    assert not np.allclose(plain.double(), exact, rtol=1e-7), "plain float32 would lose it"


# --- hooks --------------------------------------------------------------------------------------


def test_hooks_are_gone_afterwards(llama: Case) -> None:
    model = adapted(llama)
    traced(model)
    assert n_hooks(model) == 0


class Broken(nn.Module):
    """A block that works `good` times."""

    def __init__(self, block: nn.Module, good: int) -> None:
        super().__init__()
        self.block, self.good = block, good

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            raise KeyboardInterrupt
        return self.block(*args, **kwargs)


@pytest.mark.parametrize("good", [0, 1, 3])
def test_hooks_are_gone_after_a_failure_at_any_step(llama: Case, good: int) -> None:
    model = adapted(llama)
    model.base.model.layers[1] = Broken(model.base.model.layers[1], good)
    with pytest.raises(KeyboardInterrupt):
        traced(model)
    assert n_hooks(model) == 0


def test_a_tracer_serves_one_batch_after_another(llama: Case) -> None:
    model = adapted(llama)
    tracer = ResidualMeans(model)
    prompts = prompts_of(model)
    generate(model, prompts, GREEDY, tracer=tracer)
    generate(model, prompts[2:], GREEDY, tracer=tracer)
    fresh = ResidualMeans(model)
    generate(model, prompts[2:], GREEDY, tracer=fresh)
    for span in ("prompt", "generated"):
        assert torch.equal(tracer.means(span), fresh.means(span))
        assert torch.equal(tracer.n_tokens(span), fresh.n_tokens(span))


# --- wrappers -----------------------------------------------------------------------------------


def with_adapter(case: Case) -> AdaptedModel:
    """The tiny model under PEFT, with an adapter that changes it much."""
    peft = pytest.importorskip("peft")
    plain = adapted(case)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    hf = peft.get_peft_model(plain.hf, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    ref = replace(plain.ref, adapter=Path("adapter"))
    return AdaptedModel(ref, case.folder, hf, plain.tokenizer, plain.weights)


def test_it_traces_through_an_adapter(llama: Case) -> None:
    model = with_adapter(llama)
    tracer, made = traced(model)
    assert [g.token_ids for g in made] != [g.token_ids for g in traced(adapted(llama))[1]]
    merged = with_adapter(llama).hf.merge_and_unload()
    plain = replace(adapted(llama), hf=merged, tokenizer=model.tokenizer)
    for row, prompt in enumerate(prompts_of(model)):
        states = hidden_states(llama, plain, [*prompt, *made[row].token_ids])
        check_means(tracer, row, prompt, states, rtol=1e-3, atol=1e-4)
    assert generate(model, prompts_of(model), GREEDY) == made
    assert n_hooks(model) == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_it_traces_through_bitsandbytes(llama: Case, bits: Any) -> None:
    """Against what Hugging Face's generate hands out at each step of the same decoding."""
    pytest.importorskip("bitsandbytes")
    model = load_quantized(llama.folder, bits=bits, device="cpu")
    prompt = prompts_of(model)[2]
    tracer = ResidualMeans(model)
    (made,) = generate(model, [prompt], GREEDY, tracer=tracer)
    assert n_hooks(model) == 0
    ids = torch.tensor([prompt])
    out = model.base.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=len(made.token_ids) + 1,
        min_new_tokens=len(made.token_ids) + 1,  # so that the last token of ours is fed
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    assert out.sequences[0, len(prompt) : -1].tolist() == list(made.token_ids)
    for layer in range(model.n_layers):  # the last one is normed there
        steps = [step[layer][0].float() for step in out.hidden_states]
        np.testing.assert_allclose(tracer.means("prompt")[layer, 0], steps[0].mean(0), atol=1e-5)
        fed = torch.cat(steps[1:])
        assert len(fed) == len(made.token_ids)
        np.testing.assert_allclose(tracer.means("generated")[layer, 0], fed.mean(0), atol=1e-5)
    assert generate(model, [prompt], GREEDY) == [made]
