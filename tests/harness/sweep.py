"""One causal language model put through the verbs, each beside Hugging Face's plain forward pass.

What a verb does with it is one of four: it is equal to Hugging Face, it refuses with a reason, it
is different, or it ends in a traceback. The last two are faults of lensbench.
"""

from __future__ import annotations

import csv
import json
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import InputProblems, LensbenchError
from tests.harness.causal_lms import save_tiny
from tests.harness.tiny import PROMPTS, SENTENCES

Verdict = Literal["equal", "refused", "different", "traceback"]
BOUND_BITS = 2e-3  # float32, in batches of other shapes; a part left out shows in whole bits
N_NEW = 4


@dataclass(frozen=True)
class Outcome:
    """What one verb made of one model: `error` in bits where it was measured."""

    verdict: Verdict
    error: float | None = None
    said: str = ""


@dataclass
class Plain:
    """Hugging Face's own model, prompts one at a time, no cache and no padding."""

    folder: Path
    states: dict[tuple[int, ...], list[Tensor]] = field(default_factory=dict)
    device: str = "cpu"  # of lensbench: this model is on the CPU
    dtype: torch.dtype = torch.float32

    @cached_property
    def hf(self) -> Any:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype)
        return model.eval().requires_grad_(False)

    @cached_property
    def words(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    def log2p(self, ids: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
        """Log-probabilities in bits."""
        with torch.no_grad():
            logits = self.hf(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        return logits.double().log_softmax(-1) / math.log(2)

    def stream(self, ids: Sequence[int]) -> list[Float[Tensor, "pos d_model"]]:
        """What enters each block, as Hugging Face reports it; empty where it reports nothing."""
        with torch.no_grad():
            out = self.hf(
                input_ids=torch.tensor([list(ids)]), use_cache=False, output_hidden_states=True
            )
        found = getattr(out, "hidden_states", None) or ()
        embedded = self.hf.get_input_embeddings()(torch.tensor([list(ids)]))
        return [state[0] for state in (embedded, *found[:-1]) if state.ndim == 3]


def kl_bits(p: Tensor, q: Tensor) -> float:
    """KL(p || q) of two tables of log2-probabilities, the worst row."""
    return float((p.exp2() * (p - q)).sum(-1).max())


def lens(plain: Plain, folder: Path) -> float:
    """The lens at the last layer is Hugging Face's output, and reads its own stream below it."""
    from lensbench.lens.result import logit_lens
    from lensbench.models.load import load_model
    from lensbench.prompts.prompt import Prompt

    model = load_model(plain.folder, device=plain.device)
    result = logit_lens(model, [Prompt(f"p{i}", text) for i, text in enumerate(PROMPTS)], top_k=1)
    if result.problems:
        raise InputProblems(result.problems)
    rows = result.to_pandas()
    last = rows[(rows.site == "resid_post") & (rows.layer == model.n_layers) & rows.is_last]
    found = last.set_index("prompt_id")
    error = 0.0
    for i, prompt in enumerate(PROMPTS):
        own = plain.log2p(plain.words(prompt).input_ids)[-1]
        entropy = float(-(own.exp2() * own).sum())
        row = found.loc[f"p{i}"]
        top = float(own.max().exp2())
        error = max(error, abs(entropy - row.entropy_bits), abs(top - row.top_probs[0]))
    return error


def check(plain: Plain, folder: Path) -> float:
    """Every identity holds, and the lens reads Hugging Face's logits."""
    from lensbench.lens.gate import check_identities, require
    from lensbench.models.load import load_model
    from lensbench.residuals.capture import residual_stream

    model = load_model(plain.folder, device=plain.device)
    ids = [model.tokenizer(prompt).input_ids for prompt in PROMPTS[:2]]
    require(check_identities(model, ids))
    error = 0.0
    for own in ids:
        found = residual_stream(model, own)
        read = model.readout(found.at(model.final_site)).cpu().double().log_softmax(-1) / math.log(
            2
        )
        error = max(error, kl_bits(plain.log2p(own), read))
    return error


def infer(plain: Plain, folder: Path) -> float:
    """A padded batch says what each prompt alone would: log-probabilities of the greedy tokens."""
    from lensbench.quantized.generation.infer import run_inference
    from lensbench.quantized.generation.spec import Decoding, InferenceSpec
    from tests.harness.files import table

    prompts = folder / "prompts.csv"
    with prompts.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "prompt"])
        writer.writerows((f"q{i}", text) for i, text in enumerate(PROMPTS))
    decoding = Decoding(max_new_tokens=N_NEW)
    spec = InferenceSpec(
        prompts=prompts,
        out=folder / "out.csv",
        decoding=decoding,
        batch_size=4,
        device=plain.device,
    )
    outcome = run_inference(f"{plain.folder}@32", spec)
    if not outcome.ok:
        raise InputProblems(outcome.problems)
    rows = table(spec.folder, "responses")
    error = 0.0
    for row in rows:
        ids = [*row["prompt_ids"], *row["token_ids"]]
        own = plain.log2p(ids)[len(row["prompt_ids"]) - 1 : -1]
        for step, token in enumerate(row["token_ids"]):
            behind = float(own[step].max() - own[step, token])  # greedy takes the best
            off = abs(float(own[step, token]) - row["token_logprob_bits"][step])
            error = max(error, behind, off)
    return error


def cache(plain: Plain, folder: Path) -> float:
    """What is on disk is Hugging Face's own stream, relative to its length.

    Classes report it from the embedding or from the first block on, so each layer below the last is
    compared with the nearest state.
    """
    from lensbench.residuals.store import open_cache
    from lensbench.studies.specs.cache import CacheSpec
    from lensbench.studies.stages.cache import run_cache
    from tests.harness.caches import write_prompts

    rows = [(f"p{i}", prompt, None) for i, prompt in enumerate(PROMPTS[:3])]
    prompts = write_prompts(folder / "cached.csv", rows)
    spec = CacheSpec(str(plain.folder), str(prompts), positions="all", device=plain.device)
    if problems := run_cache(spec, folder / "cache"):
        raise InputProblems(problems)
    kept = open_cache(folder / "cache")
    cells = kept.cells
    error = 0.0
    for name, prompt, _ in rows:
        own = (cells.prompt_id == name).to_numpy()
        states = plain.stream(plain.words(prompt).input_ids)
        for layer in range(len(kept.sites) - 1):
            found = kept.layer(layer)[own.nonzero()[0]]
            error = max(error, min(float((found - s).norm() / s.norm()) for s in states))
    return error


def train(plain: Plain, folder: Path) -> float:
    """Before its first step an adapter changes nothing: the loss is Hugging Face's own."""
    from lensbench.quantized.adapters.spec import Lora
    from lensbench.quantized.data.pairs import read_pairs
    from lensbench.quantized.training.examples import encode
    from lensbench.quantized.training.spec import TrainSpec
    from lensbench.quantized.training.train import train as run_train
    from tests.harness.files import table

    data = folder / "pairs.jsonl"
    rows = [
        {"id": f"p{i}", "instruction": text[:9], "response": text[: 9 + 5 * i]}
        for i, text in enumerate(SENTENCES[:2])
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = TrainSpec(
        f"{plain.folder}@32",
        data,
        folder / "adapter",
        lora=Lora(dropout=0.0),
        device=plain.device,
        style="none",
        max_length=48,
        max_steps=1,
        batch_size=2,
        eval_share=0.0,
        n_examples=1,
    )
    run_train(spec)
    logged = next(row for row in table(spec.out, "training") if row["loss_nats"] is not None)
    found = encode(plain.words, [2], read_pairs(data).pairs, "none", 48, "x").examples
    surprisals: list[float] = []
    for example in found:
        own = plain.log2p(example.token_ids)[:-1]
        picked = torch.tensor(example.token_ids[1:])
        nll = -own.gather(1, picked[:, None])[:, 0]
        surprisals += nll[example.n_prompt - 1 :].tolist()
    mean = sum(surprisals) / len(surprisals)
    return abs(mean - logged["loss_nats"] / math.log(2))


VERBS: dict[str, Callable[[Plain, Path], float]] = {
    "lens": lens,
    "check": check,
    "infer": infer,
    "cache": cache,
    "train": train,
}


def outcome(verb: str, plain: Plain, folder: Path) -> Outcome:
    """What one verb makes of the model; every exception but lensbench's own is a traceback."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        error = float(VERBS[verb](plain, folder))
    except LensbenchError as refusal:
        return Outcome("refused", None, str(refusal))
    except Exception as fault:  # noqa: BLE001  a sweep goes on whatever one class does
        return Outcome("traceback", None, _last_lines(fault))
    return Outcome("equal" if error <= BOUND_BITS else "different", error)


def _last_lines(fault: Exception) -> str:
    return "".join(traceback.format_exception(fault))[-3000:]


def sweep(model_type: str, folder: Path, verbs: Sequence[str] = tuple(VERBS)) -> dict[str, Any]:
    """All verbs on one class; where Hugging Face itself has no tiny form of it, what it says."""
    try:
        plain = Plain(save_tiny(model_type, folder / "model"))
        n_parameters = plain.hf.num_parameters()
    except Exception as fault:  # noqa: BLE001
        return {
            "model_type": model_type,
            "no_form": _last_lines(fault),
        }
    found: dict[str, Any] = {"model_type": model_type, "n_parameters": n_parameters}
    try:
        found["finite"] = bool(plain.log2p(plain.words(PROMPTS[0]).input_ids).isfinite().all())
    except Exception as fault:  # noqa: BLE001
        found["no_forward"] = _last_lines(fault)
    for verb in verbs:
        found[verb] = asdict(outcome(verb, plain, folder / verb))
    return found
