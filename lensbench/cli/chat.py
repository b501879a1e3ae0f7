"""`lensbench chat`: talk to a model, answers streamed as they are made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
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
    TopK,
    model_ref,
)

if TYPE_CHECKING:
    from lensbench.quantized.generation.chat import Conversation

_HELP = """/reset        forget the conversation
/save FILE    write it as JSON
/temp 0.7     temperature; 0 is greedy
/help         this list
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    bits: Bits = None,
    adapter: Adapter = None,
    rag: Rag = None,
    top_k: TopK = 1,
    style: Style = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 200,
    seed: Annotated[int, typer.Option(help="For temperatures above 0.")] = 0,
    device: Device = None,
    int8_threshold: Int8Threshold = None,
) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D or /quit leaves; /help lists the commands.

    Examples:

        lensbench chat smollm2-135m

        lensbench chat smollm2-135m --bits 8 --adapter runs/adapter --rag runs/index --top-k 2
    """
    from lensbench.cli.console import literal, messages
    from lensbench.quantized.generation.chat import Conversation
    from lensbench.quantized.generation.spec import Decoding
    from lensbench.quantized.loading.load import load_quantized
    from lensbench.quantized.style import default_style

    with ExitStack() as stack:
        retrieve = None
        if rag is not None:
            from lensbench.quantized.rag.index import open_index

            index = stack.enter_context(open_index(rag))
            retrieve = lambda question: index.search([question], top_k)[0]  # noqa: E731
        ref = model_ref(model, bits, adapter, int8_threshold)
        with messages.status(f"loading {literal(ref)}"):
            loaded = load_quantized(ref, device=device)
        chosen = style.value if style else default_style(loaded.tokenizer)
        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        _talk(Conversation(loaded, chosen, decoding, retrieve))


def _talk(conversation: Conversation) -> None:
    """Read a line, do it or answer it, until the user leaves."""
    from lensbench.cli.console import failure, messages
    from lensbench.errors import LensbenchError

    messages.print("Type a message, or /help.", highlight=False)
    while (line := _read()) is not None:
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                if not _command(conversation, line.split(maxsplit=1)):
                    return
            else:
                _answer(conversation, line)
        except LensbenchError as error:
            failure(error)


def _read() -> str | None:
    """A line from the user; None when they leave. Ctrl-C only clears the line."""
    from lensbench.cli.console import messages

    while True:
        try:
            return messages.input("[bold]you[/] ")
        except EOFError:
            messages.print()
            return None
        except KeyboardInterrupt:
            messages.print("\nCtrl-D or /quit leaves.", highlight=False)


def _answer(conversation: Conversation, line: str) -> None:
    from lensbench.cli.console import messages, results
    from lensbench.escape import printable_lines

    def write(text: str) -> None:
        results.file.write(printable_lines(text))
        results.file.flush()

    messages.print(f"[bold]{printable_lines(str(conversation.model.ref))}[/] ", end="")
    turn, dropped = conversation.say(line, write)
    results.print()
    if turn.stopped:
        messages.print("stopped", style="dim")
    if turn.retrieved:
        found = ", ".join(f"{name} ({score:.2f})" for name, score in turn.retrieved)
        messages.print(f"context: {found}", style="dim", markup=False, highlight=False)
    if dropped:
        messages.print(f"{dropped} earlier turn(s) no longer fit the context", style="dim")


def _command(conversation: Conversation, words: list[str]) -> bool:
    """Do a slash command; False means leave."""
    from lensbench.cli.console import messages

    name, argument = words[0], words[1].strip() if len(words) > 1 else ""
    if name in ("/quit", "/exit"):
        return False
    commands: dict[str, Callable[[Conversation, str], str]] = {
        "/reset": _reset,
        "/save": _save,
        "/temp": _temperature,
        "/help": lambda *_: _HELP,
    }
    said = commands[name](conversation, argument) if name in commands else f"No {name}.\n{_HELP}"
    messages.print(said, markup=False, highlight=False)
    return True


def _reset(conversation: Conversation, argument: str) -> str:
    conversation.reset()
    return "The conversation starts anew."


def _save(conversation: Conversation, argument: str) -> str:
    if not argument:
        return "Give a file: /save talk.json"
    path = Path(argument).expanduser()
    if path.exists():
        return f"{path} exists. Give another name."
    try:
        conversation.save(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}. Give another name."
    return f"saved {path}"


def _temperature(conversation: Conversation, argument: str) -> str:
    try:
        value = float(argument)
    except ValueError:
        return f"The temperature is {conversation.decoding.temperature}. Set it with /temp 0.7"
    if not 0 <= value < float("inf"):
        return "A temperature is 0 (greedy) or more."
    conversation.decoding = conversation.decoding.changed(temperature=value)
    return f"The temperature is {value} now."
