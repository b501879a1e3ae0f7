"""Random tokens that come several times: what each head and the whole model make of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from lensbench.attention.conditions import REPEATS, repeated
from lensbench.attention.patterns import Seen, Source
from lensbench.attention.scores import Scorer
from lensbench.attention.settings import AttentionSettings
from lensbench.models.model import LensModel
from lensbench.residuals.capture import capture_positions


@dataclass(frozen=True)
class Repeats:
    """Means over sequences: the scores of each head, and the loss of tokens the first time and
    each time that they come again."""

    scores: dict[str, Float[Tensor, "block head"]]
    first_loss_nats: float
    repeat_loss_nats: float

    @property
    def best(self) -> tuple[int, int]:
        """Block and head of the highest induction score."""
        induction = self.scores["induction"]
        block, head = divmod(int(induction.argmax()), induction.shape[1])
        return block, head


def sequences_of(model: LensModel, n: int, n_tokens: int) -> list[tuple[int, ...]]:
    """`n` sequences of at most `n_tokens` tokens, random ones `REPEATS` times over: the same for
    every model of a vocabulary."""
    settings = AttentionSettings(n_repeated=n, repeat_tokens=n_tokens // REPEATS)
    return [text.token_ids for text in repeated(model, [], settings)]


def measure_repeats(model: LensModel, n: int, n_tokens: int) -> Repeats:
    """Over the sequences of `sequences_of`; a head's scores are those of `lensbench attention`."""
    sequences = sequences_of(model, n, n_tokens)
    source = Source(model)
    scorers = [Scorer(source.facts(ids)[None]) for ids in sequences]
    rows: dict[int, list[dict[str, Tensor]]] = {}

    def see(seen: Seen) -> None:
        rows.setdefault(seen.block, []).append(scorers[seen.number](seen.pattern))

    source.watch(sequences, see)
    blocks = [rows[block] for block in sorted(rows)]
    scores = {
        name: torch.stack([torch.stack([one[name] for one in own]).mean(0) for own in blocks])
        for name in rows[0][0]
    }
    return Repeats(scores, *_losses(model, sequences))


def _losses(model: LensModel, sequences: list[tuple[int, ...]]) -> tuple[float, float]:
    """Nats: of tokens that come for the first time, and of those that come again."""
    everywhere = [range(len(ids)) for ids in sequences]
    logits = capture_positions(model, sequences, everywhere, [model.final_site]).logits
    ids = torch.tensor(sequences, device=logits.device)
    nats = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).reshape(len(sequences), -1)  # [sequence, what position t + 1 is]
    length = ids.shape[1] // REPEATS
    return float(nats[:, : length - 1].mean()), float(nats[:, length - 1 :].mean())
