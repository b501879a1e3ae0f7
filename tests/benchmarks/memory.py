"""`python -m tests.benchmarks.memory`: what a whole 8-bit run takes, measured from outside.

Memory depends on shapes alone, so the weights may be random: they are written once into a temporary
folder, and a fresh process loads and generates there, as a user would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_text
from lensbench.records.manifest import peak_memory_bytes
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

_D_VOCAB = 300  # words in the prompts; every model has as many tokens
_SHARD = "500MB"


def bench(
    config: Annotated[Path, Parameter(help="A config.json.")] = Path(
        "tests/configs/tinyllama.json"
    ),
    bits: Annotated[int, Parameter(help="8 or 4, 16, 32.")] = 8,
    rows: Annotated[int, at_least(1, "Prompts in the batch.")] = 10,
    prompt_tokens: Annotated[int, at_least(1, "Length of each prompt.")] = 64,
    new_tokens: Annotated[int, at_least(1, "Length of each response.")] = 200,
    out: Out = Path("reports/bench"),
) -> None:
    """Weights and peak memory of loading a model and answering one batch of prompts with it."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        with console.status("writing random weights"):
            _alone("write", config, folder)
        with console.status(f"{rows} x {new_tokens} new tokens in {bits} bits"):
            facts = _alone("measure", folder, bits, rows, prompt_tokens, new_tokens)
    text = _markdown(config.stem, facts)
    write_text(out / "memory.md", text)
    Console().print(text, markup=False, highlight=False)


def _alone(job: str, *arguments: object) -> dict[str, Any]:
    """The result of a job in a process of its own: peaks of one would hide those of another."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", job, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_random(config_file: Path, folder: Path) -> None:
    """A checkpoint of this config with random weights in bfloat16, and a tokenizer without an end
    token, so that every response takes its full length.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    fields = json.loads(config_file.read_text(encoding="utf-8")) | {"eos_token_id": None}
    config = AutoConfig.for_model(**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=_SHARD)
    words = {f"w{i}": i for i in range(_D_VOCAB)}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0").save_pretrained(folder)


def measure(
    folder: Path, bits: int, rows: int, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Peak bytes of resident memory of this process after each step, and the weights' own bytes."""
    import torch

    from lensbench.quantized.generation.generate import Decoding, generate
    from lensbench.quantized.loading.load import load_quantized
    from lensbench.quantized.precision import obstacle

    obstacle(bits, "cpu")  # type: ignore[arg-type]  # imports what loading needs
    imported = peak_memory_bytes()
    model = load_quantized(folder, bits, device="cpu")  # type: ignore[arg-type]
    loaded = peak_memory_bytes()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, _D_VOCAB, (rows, prompt_tokens), generator=generator).tolist()
    started = time.perf_counter()
    answers = generate(model, prompts, Decoding(max_new_tokens=new_tokens))
    return {
        "bits": bits,
        "rows": rows,
        "prompt_tokens": prompt_tokens,
        "new_tokens": [len(answer.token_ids) for answer in answers],
        "weight_bytes": model.weight_bytes,
        "peak_imported_bytes": imported,
        "peak_loaded_bytes": loaded,
        "peak_bytes": peak_memory_bytes(),
        "wall_s": time.perf_counter() - started,
    }


def _markdown(name: str, facts: dict[str, Any]) -> str:
    new = facts["new_tokens"]
    rows = [
        ("weights", facts["weight_bytes"]),
        ("peak after imports", facts["peak_imported_bytes"]),
        ("peak after loading", facts["peak_loaded_bytes"]),
        ("peak of the whole run", facts["peak_bytes"]),
    ]
    return "\n".join(
        [
            f"# Memory of a run in {facts['bits']} bits",
            "",
            f"{name}, the published config with random weights, on the CPU: {facts['rows']} "
            f"prompts of {facts['prompt_tokens']} tokens in one batch, {min(new)} to {max(new)} "
            "new tokens each. Peaks are of the whole process' resident memory.",
            "",
            *markdown_table(("what", "GB"), [(what, f"{size / 1e9:.2f}") for what, size in rows]),
            "",
            made_by("bench-memory"),
            "",
        ]
    )


def main() -> None:
    """The bench itself, or one of its jobs in the process that it starts for it."""
    job, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if job == "write":
        write_random(Path(arguments[0]), Path(arguments[1]))
        result: dict[str, Any] = {}
    elif job == "measure":
        result = measure(Path(arguments[0]), *(int(argument) for argument in arguments[1:]))
    else:
        cyclopts.run(bench)
        return
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
