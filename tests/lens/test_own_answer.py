"""One prompt: its answer or what the model says next, by a pass that is the proof as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lensbench import residual_stream
from lensbench.errors import GateError, InputProblems
from lensbench.lens.metrics import LN_2
from lensbench.lens.result import Alone, read, read_own
from lensbench.lens.settings import LensSettings
from lensbench.lens.vocabulary.bound import BITS, RELATIVE
from lensbench.models import bridge as bridges
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.prompts.encode import TokenText, Word
from lensbench.prompts.prompt import Prompt
from tests.harness.adapters import make_adapter
from tests.harness.families import distinct_families
from tests.harness.tiny import PROMPTS, TINY, Case
from tests.harness.vocabulary import exact_logits

SETTINGS = LensSettings(("final", "raw"), ("embed", "resid_mid", "resid_post"), positions="all")


Passes = Callable[[LensModel], list[int]]


@pytest.fixture
def passes() -> Iterator[Passes]:
    """The tokens of each pass through a model, as its embedding is asked for them."""
    found: list[tuple[int, int]] = []

    def counted(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding):
            found.append((module.num_embeddings, args[0].numel()))

    hook = register_module_forward_pre_hook(counted)
    yield lambda model: [n for rows, n in found if rows == model.d_vocab]
    hook.remove()


@pytest.fixture
def corrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """TransformerLens leaves a tenth of one block's MLP out, of every token."""
    found: list[str] = []
    own = bridges._bridge

    def off(hf_model: Any, *rest: Any) -> Any:
        bridge = own(hf_model, *rest)
        with torch.no_grad():
            hf_model.model.layers[0].mlp.down_proj.weight.mul_(0.9)
        found.append("bridge")
        return bridge

    monkeypatch.setattr(bridges, "_bridge", off)
    return found


@pytest.fixture
def roomy(llama: Case, tmp_path: Path) -> Path:
    """The same model with a context of 128 tokens."""
    folder = tmp_path / "roomy"
    shutil.copytree(llama.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    return folder


def _asked(text: str, answer: str | None = None) -> Prompt:
    return Prompt(id="prompt", prompt=text, answer=answer)


@distinct_families
def test_two_passes_load_and_read_what_hugging_face_says_next(family: Case, passes: Passes) -> None:
    """Of several tokens, or of one alone: every other family has the one or the other."""
    prompt = PROMPTS[list(TINY).index(family.name) % 2]
    alone = Alone(_asked(prompt), SETTINGS)
    model = load_model(family.folder, device="cpu", proof=alone)
    result = alone.read(model)
    encoded = model.encoder().encode(_asked(prompt))
    assert passes(model) == [len(encoded.token_ids)] * 2
    with torch.inference_mode():
        logits = family.fresh_hf()(input_ids=torch.tensor([encoded.token_ids])).logits[0, -1]
    token = int(logits.argmax())
    frame = result.to_pandas()
    at_end = (frame.layer == model.n_layers) & (frame.site == "resid_post")
    last = frame[frame.is_last & (frame.lens == "final") & at_end]
    assert last.answer_rank.tolist() == [1]
    assert last.answer_prob.item() == pytest.approx(float(logits.softmax(-1)[token]), abs=1e-4)
    told = replace(encoded, answer=Word(TokenText(model.tokenizer)(token), (token,), "written"))
    assert result.table.equals(read(model, [told], SETTINGS).table)


def test_a_long_prompt_is_read_once_and_a_short_text_is_the_proof(
    llama: Case, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensbench.lens.result._FEW_TOKENS", 5)
    alone = Alone(_asked(PROMPTS[2], answer="cold"), SETTINGS)
    model = load_model(llama.folder, device="cpu", proof=alone)
    result = alone.read(model)
    encoded = model.encoder().encode(_asked(PROMPTS[2], answer="cold"))
    short, again, own = passes(model)
    assert short == again != own == len(encoded.token_ids)
    assert result.table.equals(read(model, [encoded], SETTINGS).table)


def test_a_second_reading_is_a_pass_of_its_own(llama: Case, passes: Passes) -> None:
    model, alone = llama.model, Alone(_asked(PROMPTS[0]), SETTINGS)
    before = len(passes(model))
    first = alone.read(model)
    assert first.table.equals(alone.read(model).table) and len(passes(model)) == before + 2


def test_a_prompt_is_a_proof_too(gpt2: Case, tmp_path: Path) -> None:
    """TransformerLens would leave this adapter out."""
    folder = make_adapter(gpt2, tmp_path / "a")
    with pytest.raises(GateError, match="gives another output than the model itself"):
        load_model(
            f"{gpt2.folder}+{folder}", device="cpu", proof=Alone(_asked(PROMPTS[0]), SETTINGS)
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_tokens", [1, 3, 64, 65])
def test_a_bridge_that_is_off_is_refused_whatever_the_prompt(
    roomy: Path, corrupted: list[str], n_tokens: int, dtype: str
) -> None:
    """The prompt is the proof up to 64 tokens; beyond that a short text is."""
    asked = Prompt(id="prompt", prompt="", token_ids=tuple(range(1, n_tokens + 1)))
    with pytest.raises(GateError, match="gives another output than the model itself"):
        load_model(roomy, dtype=dtype, device="cpu", proof=Alone(asked, SETTINGS))
    assert corrupted == ["bridge"]


def test_a_bridge_that_is_off_by_no_number_is_refused(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model itself says NaN, and what was wrapped does not; and the other way round."""
    own = bridges.own_logits
    nan = Alone(_asked(PROMPTS[0]), SETTINGS)
    monkeypatch.setattr(bridges, "own_logits", lambda *given: own(*given) * torch.nan)
    with pytest.raises(GateError, match="by inf bits"):
        load_model(llama.folder, device="cpu", proof=nan)
    monkeypatch.setattr(bridges, "own_logits", own)
    monkeypatch.setattr(Alone, "logits", lambda *given: own(llama.hf, given[2], "") * torch.nan)
    with pytest.raises(GateError, match="by inf bits"):
        load_model(llama.folder, device="cpu", proof=nan)


def test_the_pass_of_one_model_is_not_read_as_another_s(llama: Case, passes: Passes) -> None:
    alone = Alone(_asked(PROMPTS[0]), SETTINGS)
    load_model(llama.folder, device="cpu", proof=alone)
    before = len(passes(llama.model))
    alone.read(llama.model)
    assert len(passes(llama.model)) == before + 1


@pytest.mark.parametrize("n_tokens", [1, 3, 64, 65])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_prompt_is_read_within_the_bound(roomy: Path, n_tokens: int, dtype: str) -> None:
    """Of float64 sums over the same states and weights; the model's own are of its last state."""
    asked = Prompt(id="prompt", prompt="", token_ids=tuple(range(1, n_tokens + 1)))
    alone = Alone(asked, LensSettings(("final",)))
    model = load_model(roomy, dtype=dtype, device="cpu", proof=alone)
    with torch.no_grad():  # logits as large as a trained model's
        model.bridge.original_model.get_output_embeddings().weight.mul_(5)
    frame = Alone(asked, LensSettings(("final",))).read(model).to_pandas()
    seen = residual_stream(model, list(range(1, n_tokens + 1)))
    with torch.inference_mode():
        logits = exact_logits(model.readout, model.readout.norm(seen.stream))
    log_q = logits.log_softmax(-1)
    own = seen.logits[0].double() if dtype == "float32" else logits[-1]
    log_p = own.log_softmax(-1)
    wanted = {
        "entropy_bits": -(log_q.exp() * log_q).sum(-1) / LN_2,
        "kl_bits": (log_p.exp() * (log_p - log_q)).sum(-1) / LN_2,
    }
    rows = frame.sort_values(["layer", "position"])
    for name, values in wanted.items():
        got = torch.tensor(rows[name].to_numpy()).view(values.shape)
        assert ((got - values).abs() <= BITS + (RELATIVE + 1e-7) * values.abs()).all(), name


def test_what_is_wrong_with_a_prompt_is_said_before_any_pass(llama: Case, passes: Passes) -> None:
    model = llama.model
    before = len(passes(model))
    with pytest.raises(InputProblems, match="empty"):
        load_model(llama.folder, device="cpu", proof=Alone(_asked(""), SETTINGS))
    assert len(passes(model)) == before


def test_in_half_precision_it_is_the_best_before_rounding(llama: Case) -> None:
    """Two tokens whose logits bfloat16 does not tell apart; the second one is better."""
    model = load_model(llama.folder, dtype="bfloat16", device="cpu")
    encoded = model.encoder().encode(Prompt(id="prompt", prompt=PROMPTS[0]))
    state = residual_stream(model, PROMPTS[0]).at(model.final_site)[-1:]
    with torch.no_grad():
        head = model.bridge.original_model.get_output_embeddings().weight
        normed = model.readout.norm(state)[0]
        order = normed.abs().argsort()
        head[[7, 9]] = (3 * normed / normed.norm() * head.float().norm(dim=1).max()).bfloat16()
        head[7, order[-20]] -= normed[order[-20]].sign() * 2**-5
        rounded, exact = model.readout.rounded(normed), model.readout.logits(normed)
    assert int(rounded.argmax()) == 7
    assert rounded[7] == rounded[9]
    assert int(exact.argmax()) == 9
    answer = read_own(model, encoded, SETTINGS).table["answer_id"]
    assert set(answer.to_pylist()) == {9}
