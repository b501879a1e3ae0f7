"""The same job done four ways: every layer x position of one prompt, read over the vocabulary.

Each peer is a function that prepares and returns the job. What is counted as the job: entropy,
KL to the model's output and the top 5 tokens of every cell. lensbench computes all its default
statistics (also ranks, ties, margins, surprisal, cosine and norm) in the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import MissingExtraError

if TYPE_CHECKING:
    from lensbench.lens.logit import BatchReadings
    from lensbench.models.model import LensModel

Job = Callable[[], object]
_K = 5


def token_ids(n_tokens: int, d_vocab: int) -> Tensor:
    """A fixed random prompt, [1, n_tokens]; the work does not depend on what it says."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, d_vocab, (1, n_tokens), generator=generator)


def hugging_face(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def forward(folder: Path, n_tokens: int) -> Job:
    """Plain Hugging Face forward pass: what everybody pays."""
    model = hugging_face(folder)
    ids = token_ids(n_tokens, model.config.vocab_size)
    return inferring(lambda: model(ids).logits)


def floor(folder: Path, n_tokens: int) -> Job:
    """Forward pass plus the bare float32 head products of all layers: what nobody can avoid."""
    model = hugging_face(folder)
    ids = token_ids(n_tokens, model.config.vocab_size)
    W_U = model.get_output_embeddings().weight

    def job() -> object:
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states
            for state in states:  # each product is dropped at once
                torch.nn.functional.linear(state[0], W_U)
            return None

    return job


def lensbench(folder: Path, n_tokens: int) -> Job:
    """lensbench, all default statistics."""
    return _lensbench(folder, n_tokens, ("final",))


def lensbench_lenses(folder: Path, n_tokens: int) -> Job:
    """lensbench, several lenses from one forward pass."""
    return _lensbench(folder, n_tokens, SEVERAL)


def _lensbench(folder: Path, n_tokens: int, lenses: tuple[str, ...]) -> Job:
    model = _loaded(folder)
    return readings(model, token_ids(n_tokens, model.d_vocab), lenses)


def readings(
    model: LensModel, ids: Tensor, lenses: tuple[str, ...], positions: str = "all", **how: Any
) -> Callable[[], BatchReadings]:
    """All default statistics of prompts [prompt, token] in one batch, behind the gate."""
    from lensbench.lens.logit import read_batch
    from lensbench.lens.settings import LensSettings
    from lensbench.prompts.encode import EncodedPrompt, Word
    from lensbench.prompts.prompt import Prompt

    settings = LensSettings(lenses, positions=positions, top_k=_K, **how)  # type: ignore[arg-type]
    prompts = [
        EncodedPrompt(Prompt(f"p{i}", "-"), "-", "plain", tuple(row), Word("-", (7,), "written"))
        for i, row in enumerate(ids.tolist())
    ]
    return lambda: read_batch(model, prompts, settings)


def transformer_lens_tool(folder: Path, n_tokens: int) -> Job:
    """TransformerLens 4: run_with_cache, then tools.analysis.logit_lens (entropy, top 5; no KL)."""
    model = _loaded(folder)
    return tool(model, token_ids(n_tokens, model.d_vocab))


def tool(model: LensModel, ids: Tensor) -> Job:
    """TransformerLens' own logit lens of one prompt."""
    from transformer_lens.tools.analysis import logit_lens

    return inferring(lambda: logit_lens(model.bridge, ids, positions=None, top_k=_K))


def transformer_lens_stack(folder: Path, n_tokens: int) -> Job:
    """TransformerLens: accumulated_resid and one unembedding; all log-probabilities are kept."""
    model = _loaded(folder)
    return stacked(model, token_ids(n_tokens, model.d_vocab))


def stacked(model: LensModel, ids: Tensor) -> Job:
    """All states of one prompt through the head at once; statistics in float32."""
    bridge = model.bridge
    names = ["blocks.0.hook_resid_pre"]
    names += [f"blocks.{i}.hook_resid_post" for i in range(bridge.cfg.n_layers)]

    def read() -> object:
        logits, cache = bridge.run_with_cache(ids, names_filter=names)
        stack = torch.stack([cache[name][0] for name in names])  # [layer, pos, d_model]
        lens = (bridge.ln_final(stack) @ bridge.W_U + bridge.b_U).float()
        return entropy_kl_top(logits[0].float(), lens)

    return inferring(read)


def hugging_face_loop(folder: Path, n_tokens: int) -> Job:
    """Plain Hugging Face: output_hidden_states, then norm, head and log_softmax layer by layer."""
    model = hugging_face(folder)
    return layer_by_layer(model, token_ids(n_tokens, model.config.vocab_size))


def layer_by_layer(hf: Any, ids: Tensor) -> Job:
    """As a good user would write it: products in the model's own format, the rest in float32."""
    norm, head = hf.model.norm, hf.get_output_embeddings()

    def read() -> object:
        output = hf(ids, use_cache=False, output_hidden_states=True)
        states = [norm(state[0]) for state in output.hidden_states[:-1]]
        states.append(output.hidden_states[-1][0])  # Hugging Face has normed this one already
        p = output.logits[0].float()
        return [entropy_kl_top(p, head(state).float()) for state in states]

    return inferring(read)


def nnterp(folder: Path, n_tokens: int) -> Job:
    """nnterp: trace, then project_on_vocab layer by layer."""
    try:
        from nnterp import StandardizedTransformer
    except ImportError as error:
        raise MissingExtraError("nnterp", "bench") from error
    model = StandardizedTransformer(str(folder), dtype=torch.float32, device_map="cpu")
    ids = token_ids(n_tokens, model.vocab_size)

    def job() -> object:
        with torch.inference_mode():
            # nnsight runs this block from its source; only what is saved outlives it.
            with model.trace(ids):
                states = list().save()  # type: ignore[attr-defined]  # noqa: C408
                states.append(model.token_embeddings)
                for i in range(model.num_layers):
                    states.append(model.layers_output[i])
                logits = model.logits.save()
            return [entropy_kl_top(logits[0], model.project_on_vocab(state)[0]) for state in states]

    return job


def _loaded(folder: Path) -> LensModel:
    from lensbench.models.load import load_model

    return load_model(folder, dtype="float32", device="cpu")


def inferring(work: Callable[[], object]) -> Job:
    """The work without what training would need."""

    def job() -> object:
        with torch.inference_mode():
            return work()

    return job


def entropy_kl_top(
    model_logits: Float[Tensor, "pos d_vocab"], lens_logits: Float[Tensor, "*layer pos d_vocab"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, KL and top 5, as one would write them."""
    log_p = torch.log_softmax(model_logits, -1)
    log_q = torch.log_softmax(lens_logits, -1)
    entropy = -(log_q.exp() * log_q).sum(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    return entropy, kl, log_q.topk(_K, -1).indices


FORWARD, FLOOR = "forward pass", "forward + bare head products"
OURS, OURS_SEVERAL = "lensbench", "lensbench, three lenses"
STACK = "TransformerLens run_with_cache + unembed"
SEVERAL = ("final", "raw", "next")
PEERS: dict[str, Callable[[Path, int], Job]] = {
    FORWARD: forward,
    FLOOR: floor,
    OURS: lensbench,
    OURS_SEVERAL: lensbench_lenses,
    "TransformerLens tools.analysis.logit_lens": transformer_lens_tool,
    STACK: transformer_lens_stack,
    "Hugging Face output_hidden_states loop": hugging_face_loop,
    "nnterp trace + project_on_vocab": nnterp,
}
