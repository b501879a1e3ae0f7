"""A prompt without an answer is followed by what the model says next, in one pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lensbench import load_model, residual_stream
from lensbench.lens.result import read, read_own
from lensbench.lens.settings import LensSettings
from lensbench.prompts.encode import TokenText, Word
from lensbench.prompts.prompt import Prompt
from lensbench.residuals import capture
from tests.harness.tiny import PROMPTS, Case

SETTINGS = LensSettings(("final", "raw"), ("embed", "resid_mid", "resid_post"), positions="all")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each forward pass."""
    found: list[int] = []
    own = capture.forward

    def counted(bridge: Any, batch: Any, *rest: Any, **more: Any) -> Any:
        found.append(batch.token_ids.numel())
        return own(bridge, batch, *rest, **more)

    monkeypatch.setattr(capture, "forward", counted)
    return found


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_one_pass_reads_what_hugging_face_says_next(
    family: Case, prompt: str, passes: list[int]
) -> None:
    model = family.model
    encoded = model.encoder().encode(Prompt(id="prompt", prompt=prompt))
    result = read_own(model, encoded, SETTINGS)
    assert passes == [len(encoded.token_ids)]
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
