"""Answer every prompt of a file.

Interrupt it at any time and run it again: it goes on. The CSV has id, prompt, response,
finish_reason, token counts, what was retrieved, and the further columns of the input. Token ids,
probabilities and batches are in the record beside it. A row that cannot be answered is reported and
the rest goes on (exit status 1).

Examples:

    lensbench infer smollm2-135m prompts.csv -o responses.csv

    lensbench infer smollm2-135m prompts.csv -o warm.csv --temperature 0.7 \
        --top-p 0.9

    lensbench infer smollm2-135m python -o rag.csv --rag runs/index \
        --trace runs/rag

    lensbench infer smollm2-135m python -o other.csv --rag runs/index \
        --control shuffled
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import batch_progress, note, say, show_problems
from lensbench.cli.options import Workers
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.spec import ModelSpec


class InferSpec(InferenceSpec, ModelSpec):
    """A model, what it is asked, and where the answers go."""


def infer(spec: Annotated[InferSpec, Parameter("*")], *, workers: Workers = None) -> int:
    from lensbench.quantized.generation.infer import run_inference

    ref = spec.ref
    with batch_progress(workers) as progress:
        outcome = run_inference(ref, spec, progress, note)
    show_problems(outcome.problems)
    say(spec.out)
    say(outcome.folder)
    if spec.trace is not None:
        note(f"Its report: lensbench report {outcome.folder}")
    return 0 if outcome.ok else 1
