"""`python -m tests.benchmarks.whole_run`: the table of `make bench-run`.

The main job: hundreds of prompts, each at its last position, every layer. lensbench does what a run
does, its tables of record included, beside scripts that a good user would write: batches of prompts
of similar length, only the last position read, no vocabulary-sized tensor kept. Loading and
reports are apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from lensbench.checkpoints.source import locate
from lensbench.errors import MissingExtraError
from lensbench.files import write_text
from lensbench.lens.record import Reader, encode_prompts, plan_readings, read
from lensbench.lens.settings import LensSettings
from lensbench.models.load import load_model
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.sets import load_prompts
from lensbench.records.engine import Job as RecordJob
from tests.benchmarks.measure import round_robin
from tests.benchmarks.peers import FLOOR, Job, hugging_face
from tests.benchmarks.table import Out, Rounds, at_least, made_by, markdown_table, ratios

_BATCH = 32  # prompts of a peer's batch
_K = 5
LENSBENCH = "lensbench"
Prompts = Sequence[EncodedPrompt]


def bench(
    models: Annotated[tuple[str, ...], Parameter("--model")] = ("smollm2-135m", "gemma3-270m"),
    limit: Annotated[int, at_least(2, "Base prompts, with the rows that go with each.")] = 120,
    rounds: Rounds = 3,
    out: Out = Path("reports/bench"),
) -> None:
    """Prompts per second of a whole run beside plain Hugging Face and nnterp."""
    rows = []
    for model in models:
        folder = locate(model).require_folder()
        seconds, n = timed(folder, limit, rounds)
        rows += [[model, name, *_cells(times, seconds, n)] for name, times in seconds.items()]
    header = ["model", "what", "prompts", "time, times lensbench's"]
    text = [
        "# A whole run beside its peers",
        "",
        f"The shipped facts ({limit} base prompts, with controls, paraphrases and reverses), at "
        "their last positions, every layer, full vocabulary, float32; loading and reports apart. "
        f"All compute entropy, KL, the top {_K} and the answer's rank and probability; lensbench "
        "also its other metrics, and the tables of the record. The forward passes with bare head "
        "products run the batches of the scripts and read nothing. Times are paired within each of "
        f"{rounds} rounds: median (least to most).",
        "",
        *markdown_table(header, rows),
        "",
        made_by("bench-run"),
        "",
    ]
    write_text(out / "run.md", "\n".join(text))
    Console().print("\n".join(text), markup=False, highlight=False)


def _cells(times: list[float], seconds: dict[str, list[float]], n: int) -> list[str]:
    return [str(n), ratios(times, seconds[LENSBENCH])]


def timed(folder: Path, limit: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Wall seconds of each peer, round by round, and the number of prompts."""
    model = load_model(folder, dtype="float32", device="cpu")
    prompt_set = load_prompts("facts")
    encoded, _ = encode_prompts(model, prompt_set, limit, "plain")
    jobs: dict[str, Job] = {
        LENSBENCH: lensbench(model, encoded),
        FLOOR: floor_run(folder, encoded),
        "Hugging Face, batched": hugging_face_run(folder, encoded),
    }
    console = Console(stderr=True)
    try:
        jobs["nnterp, batched"] = nnterp_run(folder, encoded)
    except MissingExtraError as error:
        console.print(f"left out: {error}", markup=False)
    with console.status(f"timing {folder.name}"):
        return round_robin(jobs, rounds), len(encoded)


def lensbench(model: Any, encoded: Prompts) -> Job:
    """Every part of a run of one lens."""
    reader = Reader(model, TokenText(model.tokenizer), "bench")
    settings = LensSettings(("final",), top_k=_K)
    stages = [[item.prompt for item in encoded]]
    (plan,) = plan_readings(encoded, stages, settings, heatmap_prompts=0)
    return lambda: [read(reader, RecordJob(i, item)) for i, item in enumerate(plan)]


def floor_run(folder: Path, encoded: Prompts) -> Job:
    """The forward passes and the bare head products at last positions, of the peers' batches."""
    model = hugging_face(folder)
    W_U = model.get_output_embeddings().weight

    def job() -> object:
        with torch.inference_mode():
            for ids, mask, last, _ in _batches(encoded):
                output = model.model(ids, attention_mask=mask, output_hidden_states=True)
                for state in output.hidden_states:
                    torch.nn.functional.linear(state[torch.arange(len(ids)), last], W_U)

    return job


def hugging_face_run(folder: Path, encoded: Prompts) -> Job:
    """Plain Hugging Face: padded batches, hidden states, then norm and head at last positions."""
    model = hugging_face(folder)
    norm, head = model.model.norm, model.get_output_embeddings()

    def job() -> object:
        found = []
        with torch.inference_mode():
            for ids, mask, last, answers in _batches(encoded):
                output = model(ids, attention_mask=mask, output_hidden_states=True)
                rows = torch.arange(len(ids))
                final = output.logits[rows, last]
                states = [state[rows, last] for state in output.hidden_states]
                normed = [*map(norm, states[:-1]), states[-1]]  # the last one is normed already
                found += [statistics(final, head(state), answers) for state in normed]
        return found

    return job


def nnterp_run(folder: Path, encoded: Prompts) -> Job:
    """nnterp: one trace per batch, then project_on_vocab layer by layer."""
    try:
        from nnterp import StandardizedTransformer
    except ImportError as error:
        raise MissingExtraError("nnterp", "bench") from error
    model = StandardizedTransformer(str(folder), dtype=torch.float32, device_map="cpu")

    def job() -> object:
        found = []
        with torch.inference_mode():
            for ids, mask, last, answers in _batches(encoded):
                rows = torch.arange(len(ids))
                # nnsight runs this block from its source; only what is saved outlives it.
                with model.trace({"input_ids": ids, "attention_mask": mask}):
                    states = list().save()  # type: ignore[attr-defined]  # noqa: C408
                    states.append(model.token_embeddings[rows, last])
                    for i in range(model.num_layers):
                        states.append(model.layers_output[i][rows, last])
                    logits = model.logits[rows, last].save()
                found += [
                    statistics(logits, model.project_on_vocab(state), answers) for state in states
                ]
        return found

    return job


def _batches(encoded: Prompts) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Ids, mask, last positions and answers of prompts of similar length, padded on the right."""
    in_order = sorted(encoded, key=lambda item: len(item.token_ids))
    for start in range(0, len(in_order), _BATCH):
        own = in_order[start : start + _BATCH]
        rows = [torch.tensor(item.token_ids) for item in own]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        answers = torch.tensor([item.answer.id if item.answer else 0 for item in own])
        yield ids, mask, lengths - 1, answers


def statistics(
    model_logits: Float[Tensor, "cell d_vocab"],
    lens_logits: Float[Tensor, "cell d_vocab"],
    answers: Tensor,
) -> tuple[Tensor, ...]:
    """Entropy and KL in nats, the answer's probability and rank, top 5: as one would write them."""
    log_p = torch.log_softmax(model_logits, -1)
    log_q = torch.log_softmax(lens_logits, -1)
    q = log_q.exp()
    own = log_q.gather(-1, answers[:, None])
    return (
        -(q * log_q).sum(-1),
        (log_p.exp() * (log_p - log_q)).sum(-1),
        own.exp()[:, 0],
        (log_q > own).sum(-1) + 1,
        log_q.topk(_K, -1).indices,
    )


if __name__ == "__main__":
    cyclopts.run(bench)
