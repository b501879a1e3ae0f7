"""Generation: each row as if it were alone, and as Hugging Face's own generate makes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lensbench.errors import InputProblems, ModelError
from lensbench.quantized.generation.generate import generate, row_seed
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.adapted import (
    adapted,
    alone,
    ending,
    only_known_tokens,
    prompts_of,
    with_ends,
)
from tests.harness.families import distinct_families
from tests.harness.tiny import Case

N_NEW = 12
GREEDY = Decoding(max_new_tokens=N_NEW)
WARM = Decoding(max_new_tokens=N_NEW, temperature=1.5, top_p=0.95, top_k=40, seed=3)


@pytest.fixture
def model(llama: Case) -> AdaptedModel:
    return ending(llama, N_NEW)


def ids(generations: list[Any]) -> list[list[int]]:
    return [list(generation.token_ids) for generation in generations]


# --- greedy -------------------------------------------------------------------------------------


def test_a_padded_batch_is_what_hugging_face_makes_of_each_prompt_alone(family: Case) -> None:
    model = ending(family, N_NEW)
    prompts = prompts_of(model)
    made = generate(model, prompts, GREEDY)
    expected = [alone(model, prompt, N_NEW) for prompt in prompts]
    assert ids(made) == expected
    assert len({len(row) for row in expected}) > 1, "rows must stop at different times"
    assert [generation.n_prompt_tokens for generation in made] == [len(p) for p in prompts]
    ends = model.base.generation_config.eos_token_id
    assert [g.finish_reason == "stop" for g in made] == [row[-1] in ends for row in expected]


def test_probabilities_and_entropies_are_those_of_a_forward_pass(family: Case) -> None:
    model = ending(family, N_NEW)
    prompts = prompts_of(model)
    for prompt, made in zip(prompts, generate(model, prompts, GREEDY), strict=True):
        whole = torch.tensor([[*prompt, *made.token_ids]])
        with torch.no_grad():
            logits = model.base(whole).logits[0, len(prompt) - 1 : -1].double().numpy()
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        chosen = shares[np.arange(len(made.token_ids)), list(made.token_ids)]
        np.testing.assert_allclose(made.token_logprob_bits, np.log2(chosen), atol=2e-4)
        entropy = -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(-1)
        np.testing.assert_allclose(made.entropy_bits, entropy, atol=2e-4)


def test_the_checkpoints_own_settings_change_nothing(llama: Case) -> None:
    model = adapted(llama)
    prompts = prompts_of(model)
    before = ids(generate(model, prompts, GREEDY))
    own = model.base.generation_config
    own.update(do_sample=True, temperature=2.0, repetition_penalty=9.0, no_repeat_ngram_size=1)
    own.update(suppress_tokens=[row[0] for row in before], min_new_tokens=3, max_length=4)
    assert alone(model, prompts[0], N_NEW, do_sample=False) != before[0], "they would, otherwise"
    assert ids(generate(model, prompts, GREEDY)) == before
    assert model.base.generation_config is own


def test_end_tokens_come_from_checkpoint_and_tokenizer(llama: Case) -> None:
    model = only_known_tokens(adapted(llama, ends=[]))
    free = ids(generate(model, prompts_of(model)[:1], GREEDY))[0]
    assert len(free) == N_NEW
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(free[4])
    model.base.generation_config.eos_token_id = free[7]
    (made,) = generate(model, prompts_of(model)[:1], GREEDY)
    assert list(made.token_ids) == free[: min(free.index(free[4]), free.index(free[7])) + 1]
    assert made.finish_reason == "stop"


def test_the_text_is_without_special_tokens(llama: Case) -> None:
    """The head is changed so that `</s>` comes where another token came before."""
    model = only_known_tokens(adapted(llama, ends=[]))
    prompt = prompts_of(model)[0]
    (free,) = generate(model, [prompt], GREEDY)
    head, end = model.base.get_output_embeddings().weight, model.tokenizer.eos_token_id
    with torch.no_grad():
        head[end] = 1.01 * head[free.token_ids[4]]
    (made,) = generate(model, [prompt], GREEDY)
    assert made.token_ids == (*free.token_ids[: len(made.token_ids) - 1], end)
    assert made.finish_reason == "stop"
    assert "</s>" in model.tokenizer.decode(made.token_ids)
    assert made.text == model.tokenizer.decode(made.token_ids[:-1])
    assert made.text


def test_padding_that_is_also_the_end_token_is_neither_penalised_nor_counted(llama: Case) -> None:
    model = with_ends(only_known_tokens(adapted(llama)), N_NEW)
    ends = model.base.generation_config.eos_token_id
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(ends[0])
    model.tokenizer.pad_token = model.tokenizer.eos_token
    assert model.tokenizer.pad_token_id == ends[0]
    prompts = prompts_of(model)
    penalised = GREEDY.changed(repetition_penalty=1.7)
    for decoding in (GREEDY, penalised):
        penalty = {"repetition_penalty": decoding.repetition_penalty}
        expected = [alone(model, prompt, N_NEW, **penalty) for prompt in prompts]
        assert ids(generate(model, prompts, decoding)) == expected
    assert ids(generate(model, prompts, penalised)) != ids(generate(model, prompts, GREEDY))


def test_a_streamer_is_handed_every_token(model: AdaptedModel) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.got: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.got += value.reshape(-1).tolist()

        def end(self) -> None:
            self.got.append(-1)

    prompt, streamer = prompts_of(model)[0], Streamer()
    (made,) = generate(model, [prompt], WARM, streamer=streamer)
    assert streamer.got == [*prompt, *made.token_ids, -1]


# --- sampling -----------------------------------------------------------------------------------


@distinct_families
def test_a_sampled_row_depends_on_neither_neighbours_nor_place(family: Case) -> None:
    model = ending(family, N_NEW)
    prompts = prompts_of(model)
    seeds = [row_seed(0, name) for name in "abcd"]
    warm = WARM.changed(repetition_penalty=1.2)
    together = ids(generate(model, prompts, warm, seeds))
    singly = [ids(generate(model, [p], warm, [s]))[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == singly
    order = [2, 0, 3]
    shuffled = generate(model, [prompts[i] for i in order], warm, [seeds[i] for i in order])
    assert ids(shuffled) == [together[i] for i in order]


def test_seeds_decide_and_default_ones_follow_from_the_settings(model: AdaptedModel) -> None:
    same = [prompts_of(model)[0]] * 6
    first = ids(generate(model, same, WARM))
    assert first == ids(generate(model, same, WARM))
    assert len({tuple(row) for row in first}) > 1, "equal prompts get seeds of their own"
    assert first != ids(generate(model, same, WARM.changed(seed=4)))


def test_row_seeds_are_spread_and_fit_a_signed_integer() -> None:
    seeds = [row_seed(seed, str(key)) for seed in range(3) for key in range(1000)]
    assert len(set(seeds)) == 3000
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [({}, 384), ({"top_k": 3}, 3), ({"top_p": 0.5}, None), ({"temperature": 0.5}, 384)],
)
def test_tokens_are_drawn_from_the_distribution_that_the_settings_describe(
    model: AdaptedModel, settings: dict[str, float], allowed: int | None
) -> None:
    """Frequencies of 3,000 first tokens against the shares worked out with numpy."""
    decoding = Decoding(**({"max_new_tokens": 1, "temperature": 1.0, "seed": 1} | settings))
    prompt = prompts_of(model)[2]
    with torch.no_grad():
        logits = model.base(torch.tensor([prompt])).logits[0, -1].double().numpy()
    shares = np.exp((logits - logits.max()) / decoding.temperature)
    shares /= shares.sum()
    best = np.argsort(-shares)
    if allowed is None:  # the smallest set that reaches the share
        allowed = int(np.searchsorted(shares[best].cumsum(), decoding.top_p)) + 1
    kept = np.zeros_like(shares)
    kept[best[:allowed]] = shares[best[:allowed]]
    kept /= kept.sum()
    drawn = [made.token_ids[0] for made in generate(model, [prompt] * 3000, decoding)]
    counts = np.bincount(drawn, minlength=len(kept))
    assert counts[kept == 0].sum() == 0
    common = kept * 3000 >= 5
    rest = [counts[~common].sum(), 3000 * kept[~common].sum()]
    seen, expected = [*counts[common]], [*(3000 * kept[common])]
    if rest[1] > 1e-6:
        seen, expected = [*seen, rest[0]], [*expected, rest[1]]
    assert len(seen) == 1 or chisquare(seen, expected).pvalue > 1e-3


def test_sampled_tokens_are_reported_with_the_models_own_probability(model: AdaptedModel) -> None:
    """Temperature 1 in the report, whatever it was drawn with."""
    prompt = prompts_of(model)[0]
    (made,) = generate(model, [prompt], WARM)
    with torch.no_grad():
        logits = model.base(torch.tensor([[*prompt, *made.token_ids]])).logits[0]
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1) / math.log(2)
    expected = logprobs[range(len(made.token_ids)), list(made.token_ids)]
    np.testing.assert_allclose(made.token_logprob_bits, expected, atol=2e-4)


# --- what goes wrong ----------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once(model: AdaptedModel) -> None:
    with pytest.raises(InputProblems) as caught:
        Decoding(0, -1.0, 1.5, -2, 0.0)
    names = {problem.where for problem in caught.value.problems}
    assert names == {"max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty"}
    with pytest.raises(InputProblems, match="temperature: it is nan"):
        Decoding(temperature=math.nan)
    with pytest.raises(InputProblems, match="prompt 1: it has no tokens"):
        generate(model, [[1], []], GREEDY)


@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_model_that_puts_out_nan_is_an_error(model: AdaptedModel, decoding: Decoding) -> None:
    own = model.base.generation_config
    with torch.no_grad():
        model.base.get_output_embeddings().weight[5, 5] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        generate(model, prompts_of(model), decoding)
    assert model.base.generation_config is own


# --- bitsandbytes -------------------------------------------------------------------------------


def neighbours_change(folder: Path, threshold: float) -> bool:
    """Whether a prompt's numbers change with the other prompt in its batch, of the same length."""
    model = load_quantized(folder, bits=8, device="cpu", int8_threshold=threshold)
    prompt, *others = [3, 40, 50, 60], [3, 7, 8, 9], [3, 300, 310, 320]
    made = [generate(model, [prompt, other], GREEDY)[0] for other in others]
    return made[0] != made[1]


def test_int8_without_outliers_is_batch_invariant(tiny_case: Callable[[str], Case]) -> None:
    pytest.importorskip("bitsandbytes")
    folder = tiny_case("llama").folder
    assert neighbours_change(folder, threshold=2.0), "a threshold that tiny activations exceed"
    assert not neighbours_change(folder, threshold=0.0)


@pytest.mark.real
@pytest.mark.slow
def test_int8_on_the_real_model(smollm_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    assert not neighbours_change(smollm_folder, threshold=0.0)
    assert neighbours_change(smollm_folder, threshold=6.0)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_padded_and_alone(smollm_folder: Path) -> None:
    """Its padding token is its end token, and its responses end by themselves."""
    model = load_quantized(smollm_folder, bits=32, device="cpu")
    template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    questions = ("What is the capital of Germany? One word.", "Say yes.", "Name a colour of grass.")
    prompts = [model.tokenizer(template.format(q)).input_ids for q in questions]
    made = generate(model, prompts, GREEDY.changed(max_new_tokens=24))
    expected = [alone(model, prompt, 24) for prompt in prompts]
    assert ids(made) == expected
    assert "Berlin" in made[0].text
    assert "stop" in {generation.finish_reason for generation in made}
