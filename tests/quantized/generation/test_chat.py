"""Conversations: what the model is given, what is kept, and the program at a real terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lensbench.errors import InputProblems
from lensbench.quantized.generation.chat import Conversation
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.tiny import CHAT_TEMPLATE, TINY, save

SHORT = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has a chat template and whose context holds a few turns."""
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    save(TINY["llama"], folder, {"max_position_embeddings": 160})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def model(chat_folder: Path) -> AdaptedModel:
    return load_quantized(chat_folder, bits=32, device="cpu")


def expected(model: AdaptedModel, text: str) -> str:
    """What Hugging Face's own generate says to a text, greedily."""
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=text[0] != "<")
    out = model.hf.generate(
        **ids, max_new_tokens=SHORT.max_new_tokens, do_sample=False, pad_token_id=0
    )
    return model.tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def test_each_turn_is_put_to_the_model_after_the_earlier_ones(model: AdaptedModel) -> None:
    conversation = Conversation(model, "chat", SHORT)
    pieces: list[str] = []
    first, _ = conversation.say("Rome", pieces.append)
    assert first.assistant == expected(model, "<user> Rome\n<assistant> ") == "".join(pieces)
    second, dropped = conversation.say("Paris", pieces.append)
    history = f"<user> Rome\n<assistant> {first.assistant}\n<user> Paris\n<assistant> "
    assert (second.assistant, dropped) == (expected(model, history), 0)


def test_reset_forgets(model: AdaptedModel) -> None:
    conversation = Conversation(model, "chat", SHORT)
    alone, _ = conversation.say("Paris", lambda _: None)
    conversation.say("Rome", lambda _: None)
    conversation.reset()
    again, _ = conversation.say("Paris", lambda _: None)
    assert again == alone


def test_the_oldest_turns_make_room_and_are_counted(model: AdaptedModel) -> None:
    conversation = Conversation(model, "chat", SHORT)
    dropped = [conversation.say("The river Rhine " * 4, lambda _: None)[1] for _ in range(5)]
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert len(conversation.turns) == 5  # what was said is kept, and saved, all the same


def test_a_message_longer_than_the_context_is_refused_and_not_kept(model: AdaptedModel) -> None:
    conversation = Conversation(model, "chat", SHORT)
    with pytest.raises(InputProblems, match="more than the model's context of 160"):
        conversation.say("Berlin " * 160, lambda _: None)
    assert conversation.turns == []


def test_an_interrupted_answer_keeps_what_was_said(model: AdaptedModel) -> None:
    whole, _ = Conversation(model, "none", SHORT).say("The capital of", lambda _: None)
    conversation = Conversation(model, "none", SHORT)

    pieces: list[str] = []

    def stop_once(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 1:
            raise KeyboardInterrupt

    turn, _ = conversation.say("The capital of", stop_once)
    assert turn.stopped
    assert whole.assistant.startswith(turn.assistant)
    assert turn.assistant == "".join(pieces)
    assert conversation.turns == [turn]


@dataclass
class Document:
    id: str
    text: str
    score: float


def test_retrieved_context_stands_before_the_question(model: AdaptedModel) -> None:
    asked: list[str] = []

    def retrieve(question: str) -> list[Document]:
        asked.append(question)
        return [Document("d1", "Au", 0.5)]

    turn, _ = Conversation(model, "none", SHORT, retrieve).say("gold", lambda _: None)
    framed = "Use this context if it helps.\n\nContext:\nAu\n\nQuestion:\ngold"
    assert turn.assistant == expected(model, framed)
    assert turn.retrieved == [("d1", 0.5)]
    assert asked == ["gold"]


def test_a_saved_conversation_says_how_it_was_made(model: AdaptedModel, tmp_path: Path) -> None:
    conversation = Conversation(model, "chat", SHORT)
    turn, _ = conversation.say("Größe", lambda _: None)
    conversation.save(tmp_path / "talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][0] == {"role": "user", "content": "Größe", "retrieved": []}
    assert saved["messages"][1]["content"] == turn.assistant
    assert saved["model"]["weights_sha256"] == model.weights["weights_sha256"]
    assert saved["decoding"]["max_new_tokens"] == SHORT.max_new_tokens


def test_a_warm_conversation_can_be_had_again(model: AdaptedModel) -> None:
    def talk(seed: int) -> list[str]:
        decoding = Decoding(max_new_tokens=6, temperature=1.5, seed=seed)
        conversation = Conversation(model, "none", decoding)
        return [conversation.say("Rome", lambda _: None)[0].assistant for _ in range(2)]

    torch.manual_seed(1)
    first = talk(7)
    torch.manual_seed(2)
    assert talk(7) == first
    assert talk(8) != first


class Terminal:
    """`lensbench chat` at a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.said = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            command = [sys.executable, "-m", "lensbench.cli", "chat", *arguments]
            os.execv(sys.executable, command)

    def until(self, words: str, limit_s: float = 120) -> None:
        """Read until `words` stand there that did not stand there before."""
        end = time.monotonic() + limit_s
        while words not in self.said:
            if time.monotonic() > end:
                raise AssertionError(f"no {words!r} in {self.said!r}")
            if select.select([self.fd], [], [], 0.2)[0]:
                self.said += self.read()
        self.said = self.said.partition(words)[2]

    def interrupt(self, words: str) -> None:
        """Press Ctrl-C until it is answered: one pressed just before reading starts waits."""
        for _ in range(60):
            self.type("\x03")
            try:
                self.until(words, limit_s=2)
                return
            except AssertionError:
                continue
        raise AssertionError(f"Ctrl-C was never answered with {words!r}")

    def leave(self, limit_s: float = 120) -> int:
        """Press Ctrl-D until the program has ended: one pressed between two prompts is lost."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.type("\x04")
            pause = time.monotonic() + 1
            while time.monotonic() < pause:
                if (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
                    return ended[1]
                if select.select([self.fd], [], [], 0.1)[0]:
                    self.said += self.read()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"Ctrl-D did not end it: {self.said!r}")

    def read(self) -> str:
        """What it wrote; nothing where it has closed its side."""
        try:
            return os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            return ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())


def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_the_program(
    chat_folder: Path, tmp_path: Path
) -> None:
    terminal = Terminal(str(chat_folder), "--bits", "32", "--max-new-tokens", "3")
    terminal.until("/help")
    terminal.until("you")
    terminal.type("/nonsense\n")
    terminal.until("No /nonsense.")
    terminal.type("/temp warm\n")
    terminal.until("Set it with /temp 0.7")
    terminal.type("Rome\n")
    terminal.until("you")
    terminal.type(f"/save {tmp_path}/talk.json\n")
    terminal.until("saved")
    terminal.until("you")
    terminal.interrupt("Ctrl-D or /quit leaves.")
    assert terminal.leave() == 0
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 2
