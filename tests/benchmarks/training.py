"""`python -m tests.benchmarks.training`: training upper layers beside PEFT and its Trainer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter
from rich.console import Console
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainingArguments

from lensbench.checkpoints.open import quiet
from lensbench.files import write_text
from lensbench.quantized.adapters.lora import adapt, block_list, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.training import prefix
from lensbench.quantized.training.arithmetic import prepare_base
from lensbench.quantized.training.examples import Example, batch_of
from lensbench.quantized.training.trainer import Frozen, ResponseTrainer
from tests.benchmarks.measure import high_water, round_robin
from tests.benchmarks.table import Out, Rounds, made_by, markdown_table, ratios

# TinyLlama's shape with every width halved; random weights take as long as learned ones.
SHAPE = {
    "vocab_size": 16000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LORA = Lora(blocks="15-20", dropout=0.05)
N_EXAMPLES, N_TOKENS, N_PROMPT, BATCH = 8, 128, 64, 4
PLAIN, RECIPE, OURS = "PEFT, plain Trainer", "the k-bit recipe", "lensbench --cache-prefix"

Job = Callable[[], Any]
_console = Console(stderr=True)


@dataclass(frozen=True)
class Peer:
    """One way to train an epoch, at one precision of the base."""

    name: str
    bits: int


PEERS = (
    Peer(PLAIN, 32),
    Peer(OURS, 32),
    Peer(PLAIN, 8),
    Peer(RECIPE, 8),
    Peer(OURS, 8),
)


def bench(
    rounds: Rounds = 3,
    out: Out = Path("reports/bench"),
    memory_of: Annotated[int | None, Parameter(show=False)] = None,
    model: Annotated[Path | None, Parameter(show=False)] = None,
) -> None:
    """Time and memory of later epochs, when blocks 15 to 20 of 22 are adapted."""
    if memory_of is not None and model is not None:
        job = prepare(PEERS[memory_of], model)
        sys.stdout.write(json.dumps(high_water(job)) + "\n")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = _checkpoint(Path(name))
        jobs = {}
        for number, peer in enumerate(PEERS):
            with _console.status(f"preparing {peer.name}, {peer.bits} bits"):
                jobs[number] = prepare(peer, folder)
        with _console.status("timing"):
            seconds = round_robin({str(n): job for n, job in jobs.items()}, rounds)
        del jobs
        with _console.status("memory"):
            memory = [_memory_apart(n, folder) for n in range(len(PEERS))]
    text = _markdown(rounds, [seconds[str(n)] for n in range(len(PEERS))], memory)
    write_text(out / "training.md", text)
    Console().print(text, markup=False, highlight=False)


def _checkpoint(folder: Path) -> Path:
    """A random model of `SHAPE`, and a tokenizer that nobody asks anything."""
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, PreTrainedTokenizerFast

    with quiet():
        config = AutoConfig.for_model("llama", **SHAPE)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def prepare(peer: Peer, folder: Path) -> Job:
    """A job that trains one epoch; what an epoch needs only once is done before.

    All compute in float32 but for the quantised products: on most CPUs a backward pass in bfloat16
    takes many times as long, which would say nothing about the ways compared.
    """
    torch.manual_seed(0)
    loaded = load_quantized(folder, peer.bits, None, "cpu")  # type: ignore[arg-type]
    prepare_base(loaded)
    arguments = _arguments()
    if peer.name == OURS:
        trainer = _ours(loaded, arguments, folder)
    else:
        trainer = _plain(loaded, arguments, checkpointing=peer.name == RECIPE)
    trainer.remove_callback(PrinterCallback)

    def epoch() -> None:
        with quiet():
            trainer.train()

    return epoch


def _plain(loaded: AdaptedModel, arguments: TrainingArguments, checkpointing: bool) -> Trainer:
    """PEFT as its guide has it; with `checkpointing`, as the guide for quantised bases has it."""
    from peft import prepare_model_for_kbit_training

    model, examples = loaded.hf, _examples()
    if checkpointing:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    adapted = adapt(model, match(model, LORA), LORA, "bench")
    return Trainer(
        adapted,
        arguments,
        train_dataset=list(range(N_EXAMPLES)),
        data_collator=lambda items: _inputs(examples, items),
    )


def _inputs(examples: Sequence[Example], items: Sequence[int]) -> dict[str, Any]:
    inputs: dict[str, Any] = batch_of(examples, items)
    del inputs["items"]
    return inputs | {"use_cache": False}


def _ours(loaded: AdaptedModel, arguments: TrainingArguments, folder: Path) -> Trainer:
    examples = _examples()
    matched = match(loaded.hf, LORA)
    adapted = adapt(loaded.hf, matched, LORA, "bench")
    first, blocks = matched.layers[0], block_list(loaded.hf)[1]
    ids = [example.token_ids for example in examples]
    where = folder / f"prefix-{loaded.bits}"
    states = prefix.state_file(where, ids, 2048, loaded.d_model, torch.float32, {})
    prefix.write_states(states, loaded.hf, blocks[first], ids, 2048)
    frozen = Frozen(states, prefix.release(blocks, first))
    return ResponseTrainer(adapted, arguments, examples, N_EXAMPLES, 2048, frozen)


def _examples() -> list[Example]:
    """Random tokens, half of each row the response."""
    generator = torch.Generator().manual_seed(0)
    size = (N_EXAMPLES, N_TOKENS)
    rows = torch.randint(3, SHAPE["vocab_size"], size, generator=generator).tolist()
    return [Example(Pair(str(i), "x", "y"), tuple(row), N_PROMPT) for i, row in enumerate(rows)]


def _arguments() -> TrainingArguments:
    return TrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=1e-4,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def _memory_apart(number: int, folder: Path) -> int | None:
    """Peak of resident memory in an epoch, in bytes, in a process of its own; Linux only."""
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-m", "tests.benchmarks.training", "--memory-of", str(number)]
    command += ["--model", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(result.stdout.splitlines()[-1]))


def _markdown(rounds: int, seconds: Sequence[Sequence[float]], memory: Sequence[int | None]) -> str:
    rows = []
    for peer, own, peak in zip(PEERS, seconds, memory, strict=True):
        ours = seconds[PEERS.index(Peer(OURS, peer.bits))]
        mebibytes = "n/a (Linux only)" if peak is None else f"{peak / 2**20:,.0f}"
        rows.append([str(peer.bits), peer.name, ratios(own, ours), mebibytes])
    return "\n".join(
        [
            "# Training upper layers beside PEFT",
            "",
            f"LoRA of rank {LORA.rank} on q, k, v, o of blocks {LORA.layers} of "
            f"{SHAPE['num_hidden_layers']}, in a random model of TinyLlama's shape with every "
            f"width halved (width {SHAPE['hidden_size']}, vocabulary "
            f"{SHAPE['vocab_size']:,}); {N_EXAMPLES} examples of {N_TOKENS} tokens, half of them "
            f"response, {BATCH} at a time. Time is of a later epoch, the cache being written, as a "
            f"multiple of lensbench's at the same precision, paired within each of {rounds} "
            "rounds: median (least to most). Memory is the peak of resident memory in an epoch, "
            "with weights and libraries, each in a process of its own.",
            "",
            *markdown_table(
                ["bits of the base", "what", "time, times lensbench's", "peak memory, MiB"], rows
            ),
            "",
            "The k-bit recipe is prepare_model_for_kbit_training with gradient checkpointing. "
            "In 8 bits all of them take int8 weights times float32 activations, as bitsandbytes "
            "trains on a CPU; whatever is not quantised is in float32.",
            "",
            made_by("bench-training"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
