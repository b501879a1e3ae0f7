"""A text's tokens in TransformerLens' own calls: those that lensbench reads, at their positions."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

from lensbench import InputProblems, Prompt, load_model, residual_stream
from tests.harness.tiny import CHAT_TEMPLATE, PROMPTS, TOKENIZERS, Case, tokenizer

TEXTS = (*PROMPTS, "a", " two  spaces ", "Z\u00fcrich \u6771\u4eac", "<s>The")


def kinds() -> dict[str, Any]:
    """Tokenizers with BOS, without, with one that is not put before a text, with EOS, and bare."""
    made = {kind: tokenizer(kind) for kind in TOKENIZERS}
    made["bos not added"] = tokenizer("bytes")
    made["bos not added"].bos_token = "<s>"
    made["no padding"] = tokenizer("bytes+bos")
    made["no padding"].pad_token = None
    made["no special tokens"] = tokenizer("bytes")
    made["no special tokens"].pad_token = made["no special tokens"].eos_token = None
    made["eos added"] = with_eos(tokenizer("bytes+bos"))
    return made


def with_eos(made: Any) -> Any:
    from tokenizers import processors

    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return made


def test_a_text_is_the_same_tokens_for_both(family: Case) -> None:
    model = family.model
    for text in TEXTS:
        ids = model.tokenizer(text).input_ids
        assert model.to_tokens(text).tolist() == [ids]
        assert model.bridge.to_tokens(text).tolist() == [ids]
        words = model.bridge.to_str_tokens(text)
        assert words == [model.tokenizer.decode([i]) for i in ids]


def test_a_hook_hits_the_token_that_the_lens_reads(family: Case) -> None:
    model, text = family.model, PROMPTS[0]
    found = residual_stream(model, text)
    for given in (text, model.to_tokens(text)):
        _, cache = model.bridge.run_with_cache(given)
        for site, vectors in zip(found.sites, found.stream, strict=True):
            torch.testing.assert_close(cache[site.hook][0], vectors, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", list(kinds()))
def test_whatever_the_tokenizer_does_by_itself(llama: Case, kind: str) -> None:
    own = kinds()[kind]
    before = copy.deepcopy(own)
    model = load_model(llama.fresh_hf(), tokenizer=own)
    eos = own("a").input_ids[-1] == own.eos_token_id
    for text in TEXTS:
        ids = before(text).input_ids[: -1 if eos else None]
        assert model.to_tokens(text).tolist() == [ids]
        assert model.bridge.to_tokens(text).tolist() == [ids]
    assert (own.pad_token, own.bos_token) == (before.pad_token, before.bos_token)
    bos = own.bos_token_id
    if bos is not None:  # asked for in the call, it is there or not, once
        assert model.bridge.to_tokens("The", prepend_bos=True).tolist()[0].count(bos) == 1
        assert bos not in model.bridge.to_tokens("The", prepend_bos=False).tolist()[0]


def test_a_chat_template_and_token_ids_go_in_as_well(gpt2: Case) -> None:
    model = load_model(gpt2.folder, device="cpu")
    model.tokenizer.chat_template = CHAT_TEMPLATE
    chat = model.to_tokens("Rome", template="chat")
    assert "<assistant> Rome" in model.tokenizer.decode(chat[0])
    assert model.to_tokens([5, 6, 7]).tolist() == [[5, 6, 7]]
    assert torch.equal(model.to_tokens(Prompt("p", "Rome")), model.to_tokens("Rome"))
    with pytest.raises(InputProblems, match="one at a time"):
        model.to_tokens(["Rome", "Paris"])


def test_a_bridge_of_one_s_own_that_adds_bos_is_told(gpt2: Case, llama: Case) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    own = tokenizer("bytes")
    own.bos_token = "<s>"
    own.init_kwargs |= {"add_bos_token": True, "name_or_path": ""}
    hf = gpt2.fresh_hf()
    hf.config.architectures = [type(hf).__name__]
    bridge = TransformerBridge.boot_transformers("own", hf_model=hf, tokenizer=own, device="cpu")
    with pytest.warns(UserWarning, match=r"give .* model.to_tokens\(text\)"):
        load_model(bridge, tokenizer=tokenizer("bytes"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(llama.model.bridge, tokenizer=llama.model.tokenizer)
