"""Effects on one distribution: closed forms, and transformers' own processors bit by bit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lensbench as lb
from lensbench.checkpoints import devices
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.sampling.effects import Effect, effects
from lensbench.sampling.filters import filtered
from lensbench.sampling.settings import GRID, Setting, setting_of, settings_of
from tests.harness.adapted import adapted
from tests.harness.tiny import Case

SHARES = (0.4, 0.3, 0.2, 0.1)
LOGITS = torch.tensor(SHARES).log()


def entropy(shares: list[float]) -> float:
    whole = sum(shares)
    return -sum(p / whole * math.log2(p / whole) for p in shares if p)


def of(name: str, logits: torch.Tensor = LOGITS, before: tuple[int, ...] = (3,)) -> Effect:
    (found,) = effects(logits, before, [setting_of(name)])
    return found


@pytest.fixture(scope="module")
def model(llama: Case) -> AdaptedModel:
    return adapted(llama)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("T=1", [0.4, 0.3, 0.2, 0.1]),
        ("greedy", [1, 0, 0, 0]),
        ("T=0.5", [p**2 for p in SHARES]),
        ("T=2", [p**0.5 for p in SHARES]),
        ("top-k=2", [0.4, 0.3, 0, 0]),
        ("top-p=0.65", [0.4, 0.3, 0, 0]),
        ("top-p=0.75", [0.4, 0.3, 0.2, 0]),
        ("min-p=0.6", [0.4, 0.3, 0, 0]),  # .6 of the likeliest
        ("penalty=3", [0.4, 0.3, 0.2, 0.1**3]),  # token 3 stood before
        ("T=2 top-p=0.6", [0.4**0.5, 0.3**0.5, 0, 0]),  # .31 and .27 after the temperature
        ("T=0.5 min-p=0.3", [0.4**2, 0.3**2, 0, 0]),  # .25 of the likeliest is below
    ],
)
def test_effects_are_those_of_the_closed_form(name: str, shares: list[float]) -> None:
    found, whole = of(name), sum(shares)
    assert found.entropy_bits == pytest.approx(entropy(shares), abs=1e-6)
    assert found.effective_tokens == pytest.approx(2 ** entropy(shares), rel=1e-6)
    assert found.n_kept == sum(share > 0 for share in shares)
    kept = sum(own for own, share in zip(SHARES, shares, strict=True) if share)
    assert found.kept_prob == pytest.approx(kept, abs=1e-6)
    assert (found.top_token, found.top_prob) == (0, pytest.approx(shares[0] / whole, abs=1e-6))
    moved = sum(abs(own - s / whole) for own, s in zip(SHARES, shares, strict=True)) / 2
    assert found.total_variation == pytest.approx(moved, abs=1e-6)


def test_a_uniform_distribution_has_the_entropy_of_its_size() -> None:
    found = of("T=0.3", torch.zeros(1024))
    assert (found.entropy_bits, found.n_kept) == (pytest.approx(10), 1024)
    assert of("top-k=5", torch.zeros(1024)).n_kept == 1024  # equals of the fifth stay, as there


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40),
    st.floats(0.05, 5),
    st.floats(0.01, 1),
)
def test_bounds_hold_of_any_distribution(logits: list[float], t: float, p: float) -> None:
    given_logits = torch.tensor(logits)
    own, cold, nucleus, floor = effects(
        given_logits,
        (0,),
        [Setting(), Setting(temperature=t), Setting(top_p=p), Setting(min_p=p)],
    )
    assert own.total_variation == pytest.approx(0, abs=1e-12)
    assert own.kept_prob == pytest.approx(1)
    warmer, colder = (cold, own) if t >= 1 else (own, cold)
    assert warmer.entropy_bits >= colder.entropy_bits - 1e-5
    assert nucleus.kept_prob >= p - 1e-5
    for one in (own, cold, nucleus, floor):
        assert 0 <= one.entropy_bits <= math.log2(one.n_kept) + 1e-9
    # Leaving tokens out moves just their probability.
    assert nucleus.total_variation == pytest.approx(1 - nucleus.kept_prob, abs=1e-5)
    assert floor.total_variation == pytest.approx(1 - floor.kept_prob, abs=1e-5)


@pytest.mark.parametrize("name", GRID)
def test_what_is_drawn_from_is_what_transformers_generate_draws_from(
    model: AdaptedModel, name: str
) -> None:
    """Its own scores of the first token, from its own generate, to the last bit."""
    setting = setting_of(name)
    ids = torch.tensor([model.tokenizer("The capital of Germany is").input_ids])
    how = {"do_sample": False} if setting.greedy else {"do_sample": True}
    for field in ("temperature", "top_p", "min_p"):
        if not setting.greedy:
            how[field] = getattr(setting, field)
    out = model.base.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=1,
        top_k=setting.top_k if not setting.greedy else None,
        repetition_penalty=float(setting.repetition_penalty),
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **how,
    )
    ours = filtered(out.logits[0], ids, setting)
    if setting.greedy:
        assert int(ours.argmax()) == int(out.sequences[0, -1])
        assert int(ours.isfinite().sum()) == 1
    else:
        assert torch.equal(ours, out.scores[0])


def test_the_first_token_is_the_models_own(model: AdaptedModel) -> None:
    prompt = "The capital of Germany is"
    found = lb.sample(model, prompt, ["T=1", "T=0.7 top-p=0.9"])
    with torch.no_grad():
        logits = model.base(torch.tensor([model.tokenizer(prompt).input_ids])).logits[0, -1]
    shares = logits.double().softmax(-1)
    own = found.table.set_index("setting").loc["T=1"]
    assert own["entropy_bits"] == pytest.approx(float(-(shares * shares.log2()).sum()), abs=1e-6)
    assert own["top_prob"] == pytest.approx(float(shares.max()), abs=1e-7)
    assert own["n_kept"] == len(shares)


def test_names_are_read_again_as_they_are_written() -> None:
    for setting in settings_of(GRID):
        assert setting_of(setting.name) == setting
    assert setting_of("top_p=0.9, temperature=0.7").name == "T=0.7 top-p=0.9"
    assert setting_of("T=0 penalty=1.2").name == "greedy penalty=1.2"
    assert setting_of("T=1.0").name == "T=1"


@given(
    st.floats(0.001, 1000),
    st.integers(0, 10**7),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
    st.floats(0.01, 100),
)
def test_no_name_is_of_another_setting(t: float, k: int, p: float, m: float, r: float) -> None:
    """Six digits would make T=.1234567 another temperature, and 1,234,567 tokens others."""
    setting = Setting(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
    assert setting_of(setting.name) == setting


def test_a_setting_that_is_given_is_the_one_that_is_measured(model: AdaptedModel) -> None:
    given, rounded = Setting(temperature=0.01234567), Setting(temperature=0.0123457)
    both = lb.sample(model, "The capital of Germany is", [given, rounded]).effects
    assert both[0].entropy_bits != both[1].entropy_bits


def test_effects_need_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's accelerator has none."""
    wanted = of("T=0.5 top-p=0.8")

    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise TypeError("this device has no float64")

    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    found = of("T=0.5 top-p=0.8")
    assert found.entropy_bits == pytest.approx(wanted.entropy_bits, abs=1e-5)
    assert found.total_variation == pytest.approx(wanted.total_variation, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("T=-1", "temperature: it is -1. Give 0 (greedy), or a number from 0.001 to 1000."),
        ("T=0.0001", "Give 0 (greedy), or a number from 0.001 to 1000."),
        ("T=nan", "Give a finite number."),
        ("top-p=0", "top_p: it is 0. Give more than 0 and at most 1 (1 keeps every token)."),
        ("top-p=1.5", "top_p: it is 1.5. Give more than 0 and at most 1"),
        ("top-p=90", "at most 1 (1 keeps every token). 90 % is 0.9."),
        ("min-p=5", "to 1 (the likeliest alone). 5 % is 0.05."),
        ("top-k=-3", "top_k: it is -3. Give 0 (keeps every token), or how many to keep."),
        ("top-k=2.5", "top_k: it is 2.5. Give a whole number."),
        ("min-p=1.1", "Give a number from 0 (keeps every token) to 1 (the likeliest alone)."),
        ("penalty=0", "Give a number from 0.01 to 100 (1 changes nothing)."),
        ("T=warm", "T is 'warm'"),
        ("topp=0.9", "Did you mean top-p=...?"),
        ("T=1 T=2", "it says T twice"),
        ("", "it says ''"),
        ("greedy top-p=0.9", "it has no effect at temperature 0"),
    ],
)
def test_a_setting_that_is_none_says_what_is_wrong(name: str, told: str) -> None:
    with pytest.raises(lb.InputProblems) as caught:
        setting_of(name)
    assert told in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(model: AdaptedModel) -> None:
    with pytest.raises(lb.InputProblems) as caught:
        lb.sample(model, "x", ["T=-1 top-p=2", "top-p=0", "T=1", "T=1"], texts=-1)
    assert len(caught.value.problems) == 5
    with pytest.raises(lb.InputProblems) as caught:
        lb.sample(model, " ", ["top-k=385"])
    told = str(caught.value)
    assert ": the model's vocabulary has 384 tokens. Give 0 (keeps every token) to 384" in told
    assert "the prompt is empty" in told


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("The river " * 200, "the model's context holds 64"),
        ("half \ud83d", "half a character (a lone surrogate)"),
        ("\n", "the prompt is empty"),
        ("a\0b", "NUL byte"),
    ],
)
def test_prompts_that_cannot_be_read(model: AdaptedModel, prompt: str, told: str) -> None:
    with pytest.raises(lb.InputProblems, match="problem") as caught:
        lb.sample(model, prompt)
    assert told in str(caught.value)


def test_texts_that_do_not_fit_the_context_are_refused(model: AdaptedModel) -> None:
    with pytest.raises(lb.InputProblems, match="the context holds 64"):
        lb.sample(model, "The capital of", "greedy", texts=1, max_new_tokens=64)
