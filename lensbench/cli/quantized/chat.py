"""Talk to a model.

Ctrl-C stops an answer, Ctrl-D or /quit leaves; /help lists the commands. At a terminal a line can
be edited, and earlier ones come back with the arrow keys. Without one each line of standard input
is a message.

Examples:

    lensbench chat smollm2-135m

    lensbench chat smollm2-135m --bits 8 --adapter runs/adapter \
        --rag runs/index --top-k 2
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lensbench.cli.console import failure, literal, messages, results
from lensbench.errors import LensbenchError
from lensbench.escape import printable_lines
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.spec import ModelSpec, RagSpec
from lensbench.quantized.style import Style
from lensbench.spec import Devices

if TYPE_CHECKING:
    from lensbench.quantized.generation.chat import Conversation

_HELP = """/reset        forget the conversation
/save FILE    write it as JSON
/temp 0.7     temperature; 0 is greedy
/help         this list
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


class ChatSpec(RagSpec, ModelSpec):
    """A model, and how it is talked to."""

    decoding: Annotated[Decoding, Parameter("*")] = Decoding()
    style: Style | None = None
    """Default: the adapter's own; without one, chat if there is a template, else none."""
    device: Devices = None


def chat(spec: Annotated[ChatSpec, Parameter("*")]) -> None:
    from lensbench.quantized.adapters.prompt_format import prompt_format
    from lensbench.quantized.generation.chat import Conversation
    from lensbench.quantized.loading.load import load_quantized

    with ExitStack() as stack:
        retrieve = None
        if spec.rag is not None:
            from lensbench.quantized.rag.index import open_index

            index = stack.enter_context(open_index(spec.rag))
            retrieve = lambda question: index.search([question], spec.n_documents)[0]  # noqa: E731
        ref = spec.ref
        with messages.status(f"loading {literal(ref)}"):
            loaded = load_quantized(ref, device=spec.device)
        put = prompt_format(ref, loaded.tokenizer, spec.style)
        _talk(Conversation(loaded, put.style, spec.decoding, retrieve))


def _talk(conversation: Conversation) -> None:
    """Read a line, do it or answer it, until the user leaves."""
    messages.print("Type a message, or /help.", highlight=False)
    ask = _asking()
    while (line := _read(ask)) is not None:
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


def _asking() -> Callable[[], str]:
    """What reads a line: with editing and history at a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return lambda: messages.input("[bold]you[/] ")
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # not every terminal answers it
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML
    from prompt_toolkit.output.defaults import create_output

    session: PromptSession[str] = PromptSession(
        HTML("<b>you</b> "), output=create_output(sys.stderr)
    )
    return session.prompt


def _read(ask: Callable[[], str]) -> str | None:
    """A line from the user; None when they leave. Ctrl-C only clears the line."""
    while True:
        try:
            return ask()
        except EOFError:
            messages.print()
            return None
        except KeyboardInterrupt:
            messages.print("\nCtrl-D or /quit leaves.", highlight=False)


def _answer(conversation: Conversation, line: str) -> None:
    def write(text: str) -> None:
        results.file.write(printable_lines(text))
        results.file.flush()

    messages.print(f"[bold]{literal(conversation.model.ref)}[/] ", end="", highlight=False)
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
