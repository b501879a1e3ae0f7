"""`lensbench train`: a model and instruction pairs in, an adapter and its record out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.cli.options import MODEL_HELP, Bits, Device, Int8Threshold, StyleName

if TYPE_CHECKING:
    from lensbench.quantized.training.spec import TrainSpec


def train(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[
        Path,
        typer.Argument(help="A .jsonl or .csv: id, instruction, response; or id and messages."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of adapter and record.")],
    blocks: Annotated[
        str,
        typer.Option(
            help="Blocks to adapt, counted from 0: all, 15-20, 0,3,15-20, or auto:FILE, a JSON "
            'file with {"layers": [...]}. Block i puts out layer i + 1 of a record.'
        ),
    ] = "all",
    targets: Annotated[
        str,
        typer.Option(help="Of q, k, v, o, gate, up, down; or names of linear modules."),
    ] = "q,k,v,o",
    rank: Annotated[int, typer.Option(help="Rank of the update.")] = 8,
    alpha: Annotated[int, typer.Option(help="The update is alpha / rank times B A.")] = 16,
    dropout: Annotated[float, typer.Option(help="Dropout before A, in training.")] = 0.05,
    bits: Bits = None,
    int8_threshold: Int8Threshold = None,
    style: Annotated[
        StyleName | None,
        typer.Option(help="Default: chat for rows of messages, else alpaca."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of an example; a longer response is cut, and listed. Default: 512, or the "
            "model's context where that is shorter."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Times through the data.")] = 3,
    max_steps: Annotated[
        int | None, typer.Option(help="Stop after so many steps, whatever the epochs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Batches in one step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Its highest value.")] = 2e-4,
    warmup: Annotated[
        float, typer.Option(help="Share of steps in which it rises; then it falls by a cosine.")
    ] = 0.03,
    seed: Annotated[int, typer.Option(help="Of the adapter, the order and the dropout.")] = 0,
    eval_data: Annotated[
        Path | None, typer.Option("--eval", help="A file of pairs to evaluate on.")
    ] = None,
    eval_share: Annotated[
        float | None,
        typer.Option(help="Without --eval: the share of the data for it; 0: none. Default: 0.1."),
    ] = None,
    cache_prefix: Annotated[
        bool,
        typer.Option(
            "--cache-prefix",
            help="Compute what enters the lowest adapted block once, keep it on disk, and drop "
            "the blocks below. The same losses, in less time and memory.",
        ),
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    examples: Annotated[int, typer.Option(help="Prompts to answer before and after.")] = 4,
    device: Device = None,
) -> None:
    """Train a LoRA adapter on instruction pairs, and write its record and report.

    The loss counts the response's tokens only, its end token included. Interrupt it at any time
    and run it again: it goes on from the last checkpoint, with the losses that an undisturbed run
    has. A row that cannot be used is reported and the rest goes on (exit status 1).

    Examples:

        lensbench train smollm2-135m pairs.jsonl -o runs/adapter

        lensbench train tinyllama pairs.jsonl -o runs/upper --blocks 15-20 --cache-prefix

        lensbench train smollm2-135m pairs.jsonl -o runs/qv --targets q,v --rank 4 --bits 32
    """
    from lensbench.quantized.adapters.spec import Lora
    from lensbench.quantized.training.spec import TrainSpec

    if eval_data is not None and eval_share is not None:
        raise typer.BadParameter("give --eval or --eval-share, not both")
    spec = TrainSpec(
        model=model,
        data=data,
        out=out,
        lora=Lora(blocks=blocks, targets=targets, rank=rank, alpha=alpha, dropout=dropout),
        bits=bits.number if bits else None,
        int8_threshold=int8_threshold,
        device=device,
        style=style.value if style else None,
        max_length=max_length,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        learning_rate=learning_rate,
        warmup=warmup,
        seed=seed,
        eval_data=eval_data,
        eval_share=eval_share,
        cache_prefix=cache_prefix,
        checkpoint_every=checkpoint_every,
        n_examples=examples,
    )
    _run(spec)


def _run(spec: TrainSpec) -> None:
    from lensbench.cli.console import (
        batch_progress,
        interruptible,
        literal,
        messages,
        results,
        show_problems,
    )
    from lensbench.quantized.training.train import train as learn
    from lensbench.report.build import build_report

    def notify(text: str) -> None:
        messages.print(literal(text), highlight=False, soft_wrap=True)

    with interruptible():
        with batch_progress() as progress:
            trained = learn(spec, progress, notify)
        show_problems(trained.problems)
        if trained.cut:
            notify(f"{len(trained.cut)} examples were cut to fit (--max-length):")
            for problem in trained.cut[:5]:
                notify(f"  {problem.where}: {problem.what}")
        with messages.status("writing the report"):
            written = build_report([trained.folder])
        for path in (trained.folder, *(p for p in written if p.suffix == ".md")):
            results.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if not trained.ok:
        raise typer.Exit(1)
