"""The wrapper over a HookedTransformer that a user already has (TransformerLens 3.9).

Run by `make test-tl3` in an environment of its own; HookedTransformer is gone from 4.0.
"""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

MAJOR = int(importlib.metadata.version("transformer-lens").split(".")[0])
pytestmark = pytest.mark.skipif(MAJOR > 3, reason="TransformerLens 4 has no HookedTransformer")


SHAPES = {
    "RMS": {"normalization_type": "RMS"},
    "LN": {"normalization_type": "LN"},
    "norms behind the parts": {
        "normalization_type": "RMS",
        "use_normalization_before_and_after": True,
    },
    "parallel": {"normalization_type": "LN", "parallel_attn_mlp": True},
    "grouped queries": {"normalization_type": "RMS", "n_key_value_heads": 2},
}


@pytest.fixture(params=list(SHAPES))
def hooked(request: pytest.FixtureRequest):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from tests.harness.tiny import tokenizer

    config = HookedTransformerConfig(
        n_layers=3,
        d_model=32,
        n_ctx=64,
        d_head=8,
        n_heads=4,
        d_mlp=64,
        act_fn="gelu",
        d_vocab=384,
        **SHAPES[request.param],
        output_logits_soft_cap=5.0,
        seed=0,
    )
    model = HookedTransformer(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".w" in name or name.endswith(".b"):
                weight += 0.3 * torch.randn_like(weight)
    return model.eval(), tokenizer("bytes+bos")


def test_the_lens_reproduces_a_hooked_transformer(hooked) -> None:
    import lensbench as lb
    from lensbench.lens.gate import check_identities

    bridge, tokenizer = hooked
    model = lb.load_model(bridge, tokenizer=tokenizer, name="hooked")
    assert model.readout.soft_cap == 5.0
    result = lb.logit_lens(model, ["one two three", "one two three four five"], positions="all")
    assert result.gate_kl_bits < 1e-4
    ids = [tokenizer(text).input_ids for text in ("one two three", "one two three four five")]
    *others, heads = check_identities(model, ids)
    assert all(identity.passed for identity in others)
    # Behind a norm, what attention itself puts out has no hook point there.
    assert heads.passed is (None if hasattr(bridge.blocks[0], "ln1_post") else True)
    frame = result.to_pandas()
    ids = torch.tensor([result.prompts["token_ids"][0].as_py()])
    with torch.inference_mode():
        own = bridge(ids)[0, -1].softmax(-1)
    last = frame[(frame.prompt_id == "p1") & frame.is_last & (frame.layer == 3)].iloc[0]
    assert last.top_ids[0] == int(own.argmax())
    assert last.top_probs[0] == pytest.approx(float(own.max()), rel=1e-4)
