"""`python -m tests.benchmarks.plain VERB BITS FOLDER N`: what lensbench does, as a script does it.

Plain Hugging Face, bitsandbytes and PEFT, nothing of lensbench; each job ends when its numbers are
there. `size.py` runs them beside the verbs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

PROMPT = "w1 w2 w3 w4 w5 w6"
N_PROMPTS, BATCH = 4, 4


def _model(folder: str, bits: int) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if bits in (32, 16):
        dtype = torch.float32 if bits == 32 else torch.bfloat16
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    how = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, **four}
    config: Any = BitsAndBytesConfig(**how, bnb_4bit_compute_dtype=torch.bfloat16)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map="cpu"
    )


def _ids(folder: str, text: str) -> torch.Tensor:
    from transformers import AutoTokenizer

    ids: torch.Tensor = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    return ids


def lens(folder: str, bits: int, n: int) -> None:
    """The five likeliest tokens and the entropy at every layer and position of one prompt."""
    model = _model(folder, bits).eval()
    with torch.inference_mode():
        out = model(_ids(folder, PROMPT), output_hidden_states=True)
        states = [model.model.norm(state) for state in out.hidden_states[:-1]]
        for state in [*states, out.hidden_states[-1]]:
            log_p = model.lm_head(state).float().log_softmax(-1)
            sys.stdout.write(f"{float(-(log_p.exp() * log_p).sum(-1)[0, -1]):.3f}\n")
            log_p.topk(5)


def infer(folder: str, bits: int, n: int) -> None:
    """`n` new tokens after each of a few prompts of one length, in one batch."""
    model = _model(folder, bits).eval()
    ids = _ids(folder, PROMPT).repeat(N_PROMPTS, 1)
    with torch.inference_mode():
        made = model.generate(ids, max_new_tokens=n, do_sample=False)
    sys.stdout.write(f"{made.shape}\n")


def train(folder: str, bits: int, n: int) -> None:
    """`n` steps of LoRA by PEFT's own recipe, no checkpointing of gradients."""
    from peft import LoraConfig, get_peft_model

    model = _model(folder, bits)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(model, config).train()
    optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
    ids = _ids(folder, " ".join([PROMPT] * 5)).repeat(BATCH, 1)
    for _ in range(n):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        sys.stdout.write(f"{float(loss):.3f}\n")


VERBS: dict[str, Callable[[str, int, int], None]] = {"lens": lens, "infer": infer, "train": train}

if __name__ == "__main__":
    VERBS[sys.argv[1]](sys.argv[3], int(sys.argv[2]), int(sys.argv[4]))
