"""A conversation: turns kept, put to the model as it was trained to see them, answers streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TextStreamer

from lensbench.errors import InputProblems, Problem
from lensbench.files import write_text
from lensbench.quantized.generation.generate import Generation, generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.style import CONTEXT_FRAME, Style, converse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lensbench.quantized.loading.load import AdaptedModel
    from lensbench.quantized.rag.index import Hit


Retrieve = Callable[[str], "Sequence[Hit]"]
Write = Callable[[str], None]


@dataclass
class Turn:
    """What the user said, what came back, and what was retrieved for it."""

    user: str
    assistant: str = ""
    retrieved: list[tuple[str, float]] = field(default_factory=list)
    stopped: bool = False  # the user cut the answer short


class Conversation:
    """Turns with one model. Turns that no longer fit its context are skipped, oldest first."""

    def __init__(
        self,
        model: AdaptedModel,
        style: Style,
        decoding: Decoding,
        retrieve: Retrieve | None = None,
    ) -> None:
        self.model = model
        self.style = style
        self.decoding = decoding
        self.retrieve = retrieve
        self.turns: list[Turn] = []

    def reset(self) -> None:
        """Forget every turn."""
        self.turns.clear()

    def say(self, text: str, write: Write) -> tuple[Turn, int]:
        """Answer `text`, handing each piece of the answer to `write` as it comes.

        Returns the turn and how many earlier turns were skipped because they did not fit. Ctrl-C
        ends the answer: the turn then keeps what had been said and is marked as stopped.
        Raises InputProblems when the text alone exceeds the model's context.
        """
        turn = Turn(text)
        asked = self._with_context(turn)
        token_ids, dropped = self._fitted(asked)
        spoken = _Spoken(self.model.tokenizer, write)
        try:
            answer = self._answer(token_ids, spoken)
            turn.assistant = answer.text
        except KeyboardInterrupt:
            spoken.end()  # the last word may still be held back
            turn.assistant, turn.stopped = spoken.text, True
        self.turns.append(turn)
        return turn, dropped

    def save(self, path: Path) -> None:
        """Write the conversation as one JSON object: settings, and messages as chat models use."""
        messages = [
            message
            for turn in self.turns
            for message in (
                {"role": "user", "content": turn.user, "retrieved": turn.retrieved},
                {"role": "assistant", "content": turn.assistant, "stopped": turn.stopped},
            )
        ]
        facts = {"model": self.model.facts(), "decoding": vars(self.decoding), "style": self.style}
        text = json.dumps(facts | {"messages": messages}, indent=2, ensure_ascii=False)
        write_text(path, text + "\n")

    def _answer(self, token_ids: list[int], spoken: _Spoken) -> Generation:
        seed = self.decoding.seed + len(self.turns)
        return generate(self.model, [token_ids], self.decoding, [seed], streamer=spoken)[0]

    def _with_context(self, turn: Turn) -> str:
        """The user's words, framed with what was retrieved for them."""
        if self.retrieve is None:
            return turn.user
        hits = self.retrieve(turn.user)
        turn.retrieved = [(hit.id, hit.score) for hit in hits]
        context = "\n\n".join(hit.text for hit in hits)
        return CONTEXT_FRAME.format(context=context, instruction=turn.user)

    def _fitted(self, asked: str) -> tuple[list[int], int]:
        """Token ids of the conversation with `asked` last, and how many turns were skipped."""
        room = self.model.n_ctx - self.decoding.max_new_tokens
        for dropped in range(len(self.turns) + 1):
            earlier = [(turn.user, turn.assistant) for turn in self.turns[dropped:]]
            token_ids = converse(self.model.tokenizer, self.style, earlier, asked)
            if len(token_ids) <= room:
                return token_ids, dropped
        what = f"{len(token_ids):,} tokens, and {self.decoding.max_new_tokens} are for the answer"
        what += f": together more than the model's context of {self.model.n_ctx:,}"
        raise InputProblems([Problem("your message", what, "Shorten it, or --max-new-tokens.")])


class _Spoken(TextStreamer):
    """Receives tokens from transformers' generate and hands on their text, word by word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.text = ""
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """A piece that no further token changes."""
        self.text += text
        self._write(text)
