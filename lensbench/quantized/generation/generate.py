"""Generation: batches of prompts in, texts with per-token log-probability and entropy out."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.stored.heap import give_back
from lensbench.errors import InputProblems, ModelError, Problem, refused_by_library
from lensbench.prompts.batch import Batch, make_batch
from lensbench.quantized.generation.batching import is_out_of_memory
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.gate import (
    are_padded,
    passed,
    require_answers,
    require_generates,
    runs,
)

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from lensbench.quantized.generation.trace import ResidualMeans
    from lensbench.quantized.loading.load import AdaptedModel


@dataclass(frozen=True)
class Generation:
    """One response. Both lists have one value per generated token, the end token included."""

    text: str  # without special tokens
    token_ids: tuple[int, ...]
    token_logprob_bits: tuple[float, ...]  # log2 p under the model itself, temperature 1
    entropy_bits: tuple[float, ...]  # of the model's own distribution there, temperature 1
    finish_reason: str  # "stop" or "length"
    n_prompt_tokens: int


def row_seed(seed: int, key: str) -> int:
    """The seed of one row's own generator: what `key` is decides it, not where it stands."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # 63 bits: it fits a signed integer


def generate(
    model: AdaptedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int] | None = None,
    tracer: ResidualMeans | None = None,
    streamer: Any = None,
) -> list[Generation]:
    """Generate one response per prompt (token ids), as one left-padded batch.

    `seeds` are one per prompt; by default they follow from `decoding.seed` and the row's number.
    `tracer` sums up the residual stream meanwhile; `streamer` (transformers' own kind, for one
    prompt) is handed tokens as they come. The checkpoint's generation settings decide nothing but
    which tokens end a response.

    Raises:
        InputProblems: a prompt without tokens, or with one that the embedding has no row for.
        ModelError: the model puts out NaN, or cannot generate (`loading.gate`).
    """
    _require_prompts(prompts, model.d_vocab)
    answer = partial(greedy, model)
    if decoding.sampled or streamer is not None:  # unlikely tokens, or such as are seen at once
        require_generates(model, are_padded(prompts), answer)
    if passed(model, prompts, decoding.max_new_tokens):
        return _continued(model, prompts, decoding, seeds, tracer, streamer)
    with _Runs(*runs(model)):
        made = _continued(model, prompts, decoding, seeds, tracer, streamer)
        require_answers(model, prompts, made, answer)
    return made


class _Runs(refused_by_library):
    """Where memory runs out no class is to blame."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not is_out_of_memory(error):
            super().__exit__(kind, error, trace)


def greedy(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[Generation]:
    """The likeliest tokens after each prompt, without the checks of `generate`."""
    return _continued(model, prompts, Decoding(max_new_tokens=max_new_tokens))


def _continued(
    model: AdaptedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int] | None = None,
    tracer: ResidualMeans | None = None,
    streamer: Any = None,
) -> list[Generation]:
    if seeds is None:
        seeds = [row_seed(decoding.seed, str(row)) for row in range(len(prompts))]
    ends, pad = end_ids(model), _pad_id(model)
    batch = make_batch(range(len(prompts)), prompts, "left", pad)
    picker = _Picker(prompts, decoding, seeds, ends, tracer, model.device)
    config = _generation_config(decoding, ends, pad)
    watched = tracer.watching(batch.attention_mask) if tracer is not None else nullcontext()
    with quiet(), torch.no_grad(), _only(config, model.base), watched:
        output = model.base.generate(
            batch.token_ids.to(model.device),
            attention_mask=batch.attention_mask.to(model.device),
            **_positions(model, batch.position_ids),
            generation_config=config,
            logits_processor=[picker],
            streamer=streamer,
        )
        if tracer is not None:
            _feed_last(model, batch, output, tracer, picker.n_tokens)
    give_back()  # LLM.int8 leaves 100 MB a batch behind, and the next one takes others
    return _generations(model, prompts, picker, ends)


def _positions(model: AdaptedModel, ids: Int[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """Positions counted without padding, if the class takes any: ALiBi and state spaces don't."""
    takes = "position_ids" in inspect.signature(model.base.forward).parameters
    return {"position_ids": ids.to(model.device)} if takes else {}


def end_ids(model: AdaptedModel) -> list[int]:
    """The tokens that end a response: the checkpoint's (it may name several), the tokenizer's."""
    named = model.base.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return sorted({int(i) for i in (*ids, model.tokenizer.eos_token_id) if i is not None})


def _pad_id(model: AdaptedModel) -> int:
    """Any token does: padding is masked. Many tokenizers have none of their own.

    One that was added to the tokenizer alone has no row in the embedding.
    """
    pad = model.tokenizer.pad_token_id
    return int(pad) if pad is not None and pad < model.d_vocab else 0


def _require_prompts(prompts: Sequence[Sequence[int]], d_vocab: int) -> None:
    problems = [
        Problem(f"prompt {row}", "it has no tokens", "Write at least one.")
        for row, prompt in enumerate(prompts)
        if not prompt
    ]
    problems += [
        Problem(
            f"prompt {row}",
            f"token {max(prompt)} has no row in the model's embedding of {d_vocab:,}",
            "The tokenizer has tokens that the model was never given: leave them out of the text.",
        )
        for row, prompt in enumerate(prompts)
        if prompt and max(prompt) >= d_vocab
    ]
    if not prompts:
        problems.append(Problem("prompts", "there are none", "Give at least one."))
    if problems:
        raise InputProblems(problems)


def _generation_config(decoding: Decoding, ends: list[int], pad: int) -> GenerationConfig:
    """Greedy for transformers: our picker has chosen already when it takes the best token."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=pad,
        return_dict_in_generate=True,
    )


@contextmanager
def _only(config: GenerationConfig, hf: PreTrainedModel) -> Iterator[None]:
    """Put the checkpoint's own settings aside: transformers fills every unset field from them."""
    own, hf.generation_config = hf.generation_config, config
    try:
        yield
    finally:
        hf.generation_config = own


class _Picker:
    """Chooses each row's next token on its own and notes what the model thought of it.

    It stands where transformers' generate expects a logits processor. A row that has ended goes on
    as padding; nothing of that is noted.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        seeds: Sequence[int],
        ends: Sequence[int],
        tracer: ResidualMeans | None,
        device: torch.device,
    ) -> None:
        self._shapers = shapers(decoding)
        self._generators = [
            torch.Generator().manual_seed(seed) if decoding.sampled else None for seed in seeds
        ]
        self._own_ids = [list(prompt) for prompt in prompts]  # without padding
        self._ends = torch.tensor(ends, dtype=torch.long, device=device)
        self._tracer = tracer
        self._alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def __call__(
        self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, "batch d_vocab"]:
        plain = not self._shapers and self._generators[0] is None
        picked = scores.argmax(-1) if plain else self._picked_alone(scores)
        logprob, entropy = _bits(scores, picked)
        self._steps.append((picked, logprob, entropy, self._alive))
        if self._tracer is not None:  # the model is fed these next
            self._tracer.expect("generated", self._alive[:, None])
        self._alive = self._alive & ~torch.isin(picked, self._ends)
        if plain:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, picked[:, None], 0.0)

    @property
    def n_tokens(self) -> Int[Tensor, " batch"]:
        """Tokens generated so far, end tokens included."""
        return torch.stack([alive for *_, alive in self._steps]).sum(0)

    def rows(self) -> Iterator[tuple[list[int], list[float], list[float]]]:
        """Each row's token ids, their log2-probabilities and the entropies they come from."""
        columns = [torch.stack(column, dim=1).tolist() for column in zip(*self._steps, strict=True)]
        for row, length in enumerate(self.n_tokens.tolist()):
            ids, logprob, entropy, _ = (column[row][:length] for column in columns)
            yield ids, logprob, entropy

    def _picked_alone(self, scores: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
        """Each living row's token, chosen with its own ids and its own generator only."""
        picked = [
            self._pick(row, scores[row : row + 1].cpu()) if alive else 0
            for row, alive in enumerate(self._alive.tolist())
        ]
        return torch.tensor(picked, device=scores.device)

    def _pick(self, row: int, scores: Float[Tensor, "1 d_vocab"]) -> int:
        ids = torch.tensor([self._own_ids[row]])
        for shaper in self._shapers:
            scores = shaper(ids, scores)
        generator = self._generators[row]
        if generator is None:
            token = int(scores.argmax())
        else:
            shares = scores.softmax(-1)
            _require_numbers(shares)
            token = int(torch.multinomial(shares, 1, generator=generator))
        self._own_ids[row].append(token)
        return token


def shapers(decoding: Decoding) -> list[Any]:
    """transformers' own processors for what the settings ask for, in its own order."""
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Any] = []
    if decoding.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
    if not decoding.sampled:
        return found
    found.append(TemperatureLogitsWarper(float(decoding.temperature)))
    if decoding.top_k > 0:
        found.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        found.append(TopPLogitsWarper(float(decoding.top_p)))
    return found


def _bits(
    scores: Float[Tensor, "batch d_vocab"], picked: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """log2 p of the picked tokens (at most 0) and the entropy (0..log2 d_vocab), in bits."""
    logprobs = scores.log_softmax(-1)
    chosen = logprobs.gather(1, picked[:, None])[:, 0]
    entropy = torch.special.entr(logprobs.exp()).sum(-1)  # nats; 0 log 0 = 0
    return chosen / math.log(2), entropy / math.log(2)


def _feed_last(
    model: AdaptedModel,
    batch: Batch,
    output: Any,
    tracer: ResidualMeans,
    n_tokens: Int[Tensor, " batch"],
) -> None:
    """Feed the last token of every row that generation ended on.

    Decoding has no use for them, but a response's mean is over all of its tokens, and a row that
    ended earlier had its end token fed while its neighbours went on.
    """
    left = n_tokens > tracer.n_tokens("generated")
    if not bool(left.any()):
        return
    fed: Bool[Tensor, "batch pos"] = torch.ones_like(output.sequences)
    fed[:, : batch.attention_mask.shape[1]] = batch.attention_mask.to(fed.device)
    n_new = fed.shape[1] - batch.attention_mask.shape[1]
    tracer.expect("generated", left[:, None])
    model.base.base_model(
        input_ids=output.sequences[:, -1:],
        attention_mask=fed,
        **_positions(model, batch.position_ids[:, -1:] + n_new),
        past_key_values=output.past_key_values,
        use_cache=True,
    )


def _generations(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], picker: _Picker, ends: Sequence[int]
) -> list[Generation]:
    generations = []
    for prompt, (ids, logprob, entropy) in zip(prompts, picker.rows(), strict=True):
        _require_numbers(torch.tensor(entropy))
        text = model.tokenizer.decode(ids, skip_special_tokens=True)
        reason = "stop" if ids[-1] in ends else "length"
        generations.append(
            Generation(text, tuple(ids), tuple(logprob), tuple(entropy), reason, len(prompt))
        )
    return generations


def _require_numbers(values: Tensor) -> None:
    """Where a logit is NaN or +Inf neither a probability nor the entropy is a number."""
    if not bool(values.isfinite().all()):
        raise ModelError(
            "The model puts out NaN or Inf. Its weights may be damaged (fetch them again), or "
            "exceed the range of this precision: write @32 behind its name."
        )
