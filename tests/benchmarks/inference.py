"""`python -m tests.benchmarks.inference`: tokens per second beside others who generate.

Everyone answers the same prompts greedily with the same number of tokens, in turn within one run.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from rich.console import Console

from lensbench.checkpoints.source import locate
from lensbench.errors import MissingExtraError
from lensbench.files import write_text
from lensbench.prompts.batch import make_batch
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.benchmarks.measure import round_robin
from tests.benchmarks.peers import Job
from tests.benchmarks.table import Model, Out, Rounds, at_least, made_by, markdown_table, ratios

_PROMPTS = 24
BATCHES = (1, 8, 24)
Ids = Sequence[Sequence[int]]
Peer = Callable[[Ids, int, int], Job]  # prompts, rows in a batch, new tokens


def endless(name: str, bits: Any) -> AdaptedModel:
    """A model to which no token ends a response, so that all generate the same number."""
    model = load_quantized(name, bits, device="cpu")
    model.base.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    return model


def lensbench(model: AdaptedModel) -> Peer:
    """lensbench: log-probability and entropy of every token too."""

    def peer(prompts: Ids, rows: int, new_tokens: int) -> Job:
        decoding = Decoding(max_new_tokens=new_tokens)

        def job() -> object:
            return [
                answer.token_ids
                for batch in _batches(prompts, rows)
                for answer in generate(model, batch, decoding)
            ]

        return job

    return peer


def hugging_face(model: AdaptedModel) -> Peer:
    """Plain `generate` of transformers on a left-padded batch."""

    def peer(prompts: Ids, rows: int, new_tokens: int) -> Job:
        def job() -> object:
            answers: list[tuple[int, ...]] = []
            for items in _batches(prompts, rows):
                batch = make_batch(range(len(items)), items, "left")
                with torch.inference_mode():
                    whole = model.base.generate(
                        batch.token_ids,
                        attention_mask=batch.attention_mask,
                        max_new_tokens=new_tokens,
                        do_sample=False,
                        pad_token_id=0,
                    )
                answers += [tuple(row) for row in whole[:, batch.token_ids.shape[1] :].tolist()]
            return answers

        return job

    return peer


def ctranslate2(name: str) -> Peer:
    """CTranslate2 in int8: an engine of its own in C++, made for serving on a CPU."""
    try:
        import ctranslate2 as engine
    except ImportError as error:
        raise MissingExtraError("ctranslate2", "bench") from error
    folder = locate(name).require_folder()
    with tempfile.TemporaryDirectory() as converted:
        converter = engine.converters.TransformersConverter(str(folder))
        converter.convert(converted, quantization="int8", force=True)
        generator = engine.Generator(
            converted, compute_type="int8", intra_threads=torch.get_num_threads()
        )
    tokenizer = load_quantized(name, 32, device="cpu").tokenizer

    def peer(prompts: Ids, rows: int, new_tokens: int) -> Job:
        words = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in prompts]
        how = {"max_length": new_tokens, "min_length": new_tokens, "sampling_topk": 1}

        def job() -> object:
            return [
                tuple(answer.sequences_ids[0])
                for batch in _batches(words, rows)
                for answer in generator.generate_batch(
                    batch, include_prompt_in_result=False, max_batch_size=rows, **how
                )
            ]

        return job

    return peer


def _batches(prompts: Sequence[Any], rows: int) -> list[Sequence[Any]]:
    return [prompts[i : i + rows] for i in range(0, len(prompts), rows)]


def peers(name: str) -> dict[str, Peer]:
    """Everyone who can run here, by name."""
    formats = {"float32": 32, "bfloat16": 16, "int8": 8}
    models = {kind: endless(name, bits) for kind, bits in formats.items()}
    found = {f"lensbench {kind}": lensbench(model) for kind, model in models.items()}
    found |= {f"Hugging Face {kind}": hugging_face(model) for kind, model in models.items()}
    try:
        found["CTranslate2 int8"] = ctranslate2(name)
    except MissingExtraError as error:
        Console(stderr=True).print(f"left out: {error}", markup=False)
    return found


def bench(
    model: Model = "smollm2-135m",
    new_tokens: Annotated[int, at_least(1, "Length of each response.")] = 16,
    rounds: Rounds = 2,
    out: Out = Path("reports/bench"),
) -> None:
    """Tokens per second of lensbench, plain Hugging Face and CTranslate2, as ratios."""
    console = Console(stderr=True)
    base = [p for p in choose(load_prompts("facts").prompts, _PROMPTS) if p.is_base]
    with console.status("loading"):
        everyone = peers(model)
        tokenizer = load_quantized(model, 32, device="cpu").tokenizer
    prompts = sorted((tokenizer(prompt.prompt).input_ids for prompt in base), key=len)
    jobs = {
        f"{name}, {rows}": peer(prompts, rows, new_tokens)
        for name, peer in everyone.items()
        for rows in BATCHES
    }
    with console.status("timing"):
        seconds = round_robin(jobs, rounds)
    text = _markdown(model, len(prompts), new_tokens, rounds, list(everyone), seconds)
    write_text(out / "inference.md", text)
    Console().print(text, markup=False, highlight=False)


def _markdown(
    model: str,
    n_prompts: int,
    new_tokens: int,
    rounds: int,
    names: list[str],
    seconds: dict[str, list[float]],
) -> str:
    yardstick = seconds[f"Hugging Face float32, {BATCHES[0]}"]
    rows = [
        [name, *(ratios(yardstick, seconds[f"{name}, {batch}"]) for batch in BATCHES)]
        for name in names
    ]
    more = {"accelerate": importlib.metadata.version("accelerate")}
    if any(name.startswith("CTranslate2") for name in names):
        more["ctranslate2"] = importlib.metadata.version("ctranslate2")
    else:
        rows.append(["CTranslate2 int8", *("not installed" for _ in BATCHES)])
    return "\n".join(
        [
            "# Generation beside its peers",
            "",
            f"{model} on the CPU, {n_prompts} prompts, {new_tokens} new tokens each, greedy. "
            "Tokens per second as multiples of plain Hugging Face in float32, one prompt at a "
            f"time, paired within each of {rounds} rounds: median (least to most).",
            "",
            *markdown_table(("who", *(f"batches of {batch}" for batch in BATCHES)), rows),
            "",
            "lensbench also computes the log-probability and the entropy of every token.",
            "",
            made_by("bench-inference", more),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
