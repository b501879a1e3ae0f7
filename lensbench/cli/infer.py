"""`lensbench infer`: a file of prompts in, a file of responses out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.cli.options import (
    MODEL_HELP,
    Adapter,
    Bits,
    Device,
    Int8Threshold,
    Rag,
    Style,
    layer_numbers,
    model_ref,
)

if TYPE_CHECKING:
    from lensbench.checkpoints.ref import ModelRef
    from lensbench.quantized.generation.spec import InferenceSpec


class ControlName(StrEnum):
    """What can stand in for retrieved context."""

    irrelevant = "irrelevant"
    shuffled = "shuffled"


def infer(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    prompts: Annotated[
        str,
        typer.Argument(help="A shipped set (general, python), or a .csv or .jsonl: id, prompt."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The CSV of responses; its record goes beside it."),
    ],
    bits: Bits = None,
    int8_threshold: Int8Threshold = None,
    adapter: Adapter = None,
    style: Style = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a response at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from this share of probability.")] = 1.0,
    sample_top_k: Annotated[
        int, typer.Option(help="Sample from so many best tokens; 0: all. (--top-k is --rag's.)")
    ] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that stood before become less likely.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Of sampling; with the row's id it decides the row's chance.")
    ] = 0,
    rag: Rag = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="With --rag: documents to retrieve. Default: 1.")
    ] = None,
    control: Annotated[
        ControlName | None,
        typer.Option(
            help="With --rag: put other text, as long in tokens, in place of what was retrieved. "
            "shuffled: what other prompts retrieved; irrelevant: general questions and answers."
        ),
    ] = None,
    rebatch: Annotated[
        int | None,
        typer.Option(
            min=0, help="A seed: the same prompts with other neighbours in their batches."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Also record mean activations per prompt and layer, in this folder."),
    ] = None,
    trace_layers: Annotated[
        str | None,
        typer.Option(help="With --trace: keep all of these layers, as in 15-20 or 0,3,15-20."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts at a time. Default: by the memory that is free.")
    ] = None,
    pause: Annotated[
        float, typer.Option(help="Seconds to cool down between batches, for small GPUs.")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts.")] = None,
    device: Device = None,
) -> None:
    """Answer every prompt of a file. Interrupt it at any time and run it again: it goes on.

    The CSV has id, prompt, response, finish_reason, token counts, what was retrieved, and the
    further columns of the input. Token ids, probabilities and batches are in the record beside it.
    A row that cannot be answered is reported and the rest goes on (exit status 1).

    Examples:

        lensbench infer smollm2-135m prompts.csv -o responses.csv

        lensbench infer smollm2-135m prompts.csv -o warm.csv --temperature 0.7 --top-p 0.9

        lensbench infer smollm2-135m python -o rag.csv --rag runs/index --trace runs/rag

        lensbench infer smollm2-135m python -o other.csv --rag runs/index --control shuffled
    """
    from lensbench.prompts.sets import prompt_file
    from lensbench.quantized.generation.spec import Decoding, InferenceSpec

    if top_k is not None and rag is None:
        raise typer.BadParameter("--top-k has no effect without --rag; see --sample-top-k")
    if control is not None and rag is None:
        raise typer.BadParameter("--control has no effect without --rag")
    if trace_layers is not None and trace is None:
        raise typer.BadParameter("--trace-layers has no effect without --trace")
    spec = InferenceSpec(
        prompts=prompt_file(prompts),
        out=out,
        decoding=Decoding(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=sample_top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
        style=style.value if style else None,
        batch_size=batch_size,
        pause_s=pause,
        trace=trace,
        trace_layers=(
            layer_numbers(trace_layers, "--trace-layers") if trace_layers is not None else ()
        ),
        rag=rag,
        top_k=top_k,
        control=control.value if control else None,
        rebatch=rebatch,
        limit=limit,
        device=device,
    )
    _run(model_ref(model, bits, adapter, int8_threshold), spec)


def _run(ref: ModelRef, spec: InferenceSpec) -> None:
    from lensbench.cli.console import (
        batch_progress,
        interruptible,
        literal,
        messages,
        results,
        show_problems,
    )
    from lensbench.quantized.generation.infer import run_inference

    def notify(text: str) -> None:
        messages.print(f"[yellow]note:[/] {literal(text)}", highlight=False)

    with interruptible():
        with batch_progress() as progress:
            outcome = run_inference(ref, spec, progress, notify)
        show_problems(outcome.problems)
        results.print(str(spec.out), markup=False, highlight=False, soft_wrap=True)
        results.print(str(outcome.folder), markup=False, highlight=False, soft_wrap=True)
    if not outcome.ok:
        raise typer.Exit(1)
