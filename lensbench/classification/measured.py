"""What is measured: every method on the same tested texts, seed by seed, as tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from lensbench.checkpoints.devices import pick_device
from lensbench.checkpoints.open import open_tokenizer, quiet, whole_config
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.heap import release
from lensbench.classification import probe, prompting
from lensbench.classification.cost import Spent, spending
from lensbench.classification.encoder import Texts, encoded, new_classifier
from lensbench.classification.examples import Example
from lensbench.classification.spec import DRAWN, OF_ENCODER, PROMPTED, ClassifySpec, Method
from lensbench.classification.split import Parted
from lensbench.models.load import load_model
from lensbench.models.text_encoder import context_of, load_encoder
from lensbench.progress import Watch, ignore
from lensbench.quantized.adapters.lora import Matched, adapt, match
from lensbench.quantized.training.checkpoints import CHECKPOINTS
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.text.classification import COSTS, PREDICTIONS

Probabilities = Float[np.ndarray, "text label"]


@dataclass(frozen=True)
class Run:
    """One method once: with which model, what labels it learns from, and its seed."""

    method: Method
    model: str | None  # None: it has none
    labels: str  # own, or shuffled: dealt out anew
    seed: int


@dataclass(frozen=True)
class Found:
    """What a run tells of the tested texts, by the name of the method, and what it is made of."""

    probs: Mapping[str, Probabilities]
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the table of costs


@dataclass(frozen=True)
class Measuring:
    """The examples, who learns from them, and where a long training keeps its checkpoints."""

    spec: ClassifySpec
    parted: Parted
    labels: Sequence[str]
    encoder: ModelRef | None
    causal: Sequence[ModelRef]
    folder: Path | None = None
    watch: Watch = ignore

    @property
    def runs(self) -> list[Run]:
        """Every run, in order. What has nothing to draw is run once."""
        return [
            Run(method, None if ref is None else str(ref), labels, seed)
            for method in self.spec.methods
            for ref in self._models(method)
            for labels in ("own", "shuffled")
            for seed in self._seeds(method, labels)
        ]

    def _models(self, method: Method) -> Sequence[ModelRef | None]:
        if method in PROMPTED:
            return self.causal
        return [self.encoder] if method in OF_ENCODER else [None]

    def _seeds(self, method: Method, labels: str) -> Sequence[int]:
        learns = method in (*OF_ENCODER, "few_shot")
        if labels == "shuffled":
            return self.spec.seeds if learns and self.spec.shuffled else ()
        return self.spec.seeds if method in DRAWN else self.spec.seeds[:1]

    def train_labels(self, run: Run) -> list[int]:
        """The numbers of the labels that a run learns from."""
        own = np.array([self.labels.index(one.label) for one in self.parted.train])
        if run.labels == "shuffled":
            own = np.random.default_rng((run.seed, len(own))).permutation(own)
        return [int(number) for number in own]

    @cached_property
    def longest(self) -> int:
        """Tokens of a text that the encoder reads."""
        assert self.encoder is not None
        room = context_of(whole_config(self.encoder.folder))
        return min(self.spec.max_length or room, room)

    @cached_property
    def tokens(self) -> tuple[Texts, Texts, int]:
        """Training and tested texts as the encoder reads them, and its padding."""
        assert self.encoder is not None
        with quiet():
            tokenizer = open_tokenizer(self.encoder.folder)
            train, test = (
                encoded(tokenizer, [one.text for one in some], self.longest)
                for some in (self.parted.train, self.parted.test)
            )
        return train, test, int(tokenizer.pad_token_id or 0)


def measure(context: Measuring, job: Job[Run]) -> Part:
    """One run: what it tells of each tested text, and what it costs."""
    run = job.item
    with spending(pick_device(context.spec.device)) as spent:
        found = _METHODS[run.method](context, run, spent)
    release()  # each run loads its own model
    named = {"model": run.model, "labels": run.labels, "seed": run.seed}
    costs = named | {"method": run.method, **vars(spent), **found.facts}
    costs |= {"n_train": len(context.parted.train), "n_test": len(context.parted.test)}
    rows = [
        named | {"method": method} | row
        for method, probs in found.probs.items()
        for row in _predictions(context, probs)
    ]
    return Part({PREDICTIONS.name: PREDICTIONS.of_rows(rows), COSTS.name: COSTS.of_rows([costs])})


def _predictions(context: Measuring, probs: Probabilities) -> Iterator[dict[str, Any]]:
    """A row for each tested text."""
    for example, own in zip(context.parted.test, probs, strict=True):
        yield {
            "example_id": example.id,
            "bunch": context.parted.bunches[example.id],
            "label": example.label,
            "predicted": context.labels[int(own.argmax())],
            "label_prob": float(own[context.labels.index(example.label)]),
        }


def _majority(context: Measuring, run: Run, spent: Spent) -> Found:
    """How often each label stands among the examples: the most frequent one is told of all."""
    with spent.learning():
        counts = np.bincount(context.train_labels(run), minlength=len(context.labels))
    with spent.testing():
        probs = np.tile(counts / counts.sum(), (len(context.parted.test), 1))
    return Found({run.method: probs})


def _probe(context: Measuring, run: Run, spent: Spent) -> Found:
    train, test, _ = context.tokens
    assert context.encoder is not None
    encoder = load_encoder(context.encoder.name, context.spec.device)
    with spent.learning():
        states = probe.pooled_states(encoder, train.token_ids)
        found = probe.fitted(states, context.train_labels(run))
    with spent.testing():
        tested = probe.pooled_states(encoder, test.token_ids)
        probs = probe.probabilities(found, tested, len(context.labels))
    kept = probe.weights_of(found)
    n_trained = sum(own.size for own in kept.values())
    return Found(
        {run.method: probs},
        {
            "n_trainable": n_trained,
            "n_parameters": encoder.facts()["n_params"] + n_trained,
            "saved_bytes": len(safetensors.numpy.save(kept)),
            "n_cut": train.n_cut + test.n_cut,
        },
    )


def _trained(context: Measuring, run: Run, spent: Spent) -> Found:
    """Fine-tuning: of all weights, or of an adapter and the head."""
    from lensbench.classification.trainer import Labelled, fit, keep, predicted

    spec, (train, test, pad) = context.spec, context.tokens
    assert context.encoder is not None
    model, heads = new_classifier(context.encoder, context.labels, run.seed, spec.device)
    n_parameters = model.num_parameters()
    rate = spec.full_learning_rate
    if run.method == "lora":
        rate = spec.lora_learning_rate
        model = with_adapter(model, heads, spec, run.seed, context.encoder)
    with tempfile.TemporaryDirectory() as temporary:
        name = f"{run.method}-{run.labels}-{run.seed}"
        folder = (context.folder or Path(temporary)) / CHECKPOINTS / name
        learnt = Labelled(train.token_ids, context.train_labels(run), pad)
        asked = Labelled(test.token_ids, [0] * len(test.token_ids), pad)
        with spent.learning():
            fit(model, learnt, spec, run.seed, rate, folder, context.watch)
        with spent.testing():
            probs = predicted(model, asked).numpy()
        keep(model, Path(temporary) / "kept")
        kept = (Path(temporary) / "kept").glob("*.safetensors")
        saved = sum(path.stat().st_size for path in kept)
    n_trainable = sum(own.numel() for own in model.parameters() if own.requires_grad)
    return Found(
        {run.method: probs},
        {
            "n_trainable": n_trainable,
            "n_parameters": n_parameters,
            "saved_bytes": saved,
            "n_cut": train.n_cut + test.n_cut,
        },
    )


def with_adapter(
    model: Any, heads: Sequence[str], spec: ClassifySpec, seed: int, ref: ModelRef
) -> Any:
    """PEFT's LoRA on the encoder, its head trained whole; the seed alone decides its weights."""
    import torch

    matched: Matched = match(model, spec.lora)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return adapt(model, matched, spec.lora, ref.located.public_name, heads)


def _prompted(context: Measuring, run: Run, spent: Spent) -> Found:
    """Zero-shot, or few-shot with examples that the seed draws; also calibrated."""
    assert run.model is not None
    (ref,) = [ref for ref in context.causal if str(ref) == run.model]
    model = load_model(ref, device=context.spec.device)
    form = prompting.Form.of(context.spec.template)
    words = prompting.label_words(model.encoder(where="labels"), model.name, form, context.labels)
    shown = shown_examples(context, run) if run.method == "few_shot" else []
    with spent.testing():
        texts = [one.text for one in context.parted.test]
        asked = prompting.ask(model, form, words, shown, texts)
        free = prompting.ask(model, form, words, shown, prompting.CONTENT_FREE)
    return Found(
        {
            run.method: prompting.shares(asked.bits).numpy(),
            f"{run.method}_calibrated": prompting.calibrated(asked.bits, free.bits).numpy(),
        },
        {"n_trainable": 0, "n_parameters": model.n_params, "saved_bytes": 0, "n_cut": asked.n_cut},
    )


def shown_examples(context: Measuring, run: Run) -> list[Example]:
    """As many of each label as are asked for, in an order of its own; perhaps with labels that are
    dealt out anew among them (Min et al. 2022, arXiv 2202.12837)."""
    chance = np.random.default_rng(run.seed)
    drawn: list[Example] = []
    for label in context.labels:
        own = [one for one in context.parted.train if one.label == label]
        some = chance.permutation(len(own))[: context.spec.shots]
        drawn += [own[int(i)] for i in some]
    order = chance.permutation(len(drawn))
    shown = [drawn[int(i)] for i in order]
    if run.labels == "own":
        return shown
    dealt = chance.permutation(len(shown))
    pairs = zip(shown, dealt, strict=True)
    return [Example(one.id, one.text, shown[int(i)].label) for one, i in pairs]


_METHODS: dict[Method, Callable[[Measuring, Run, Spent], Found]] = {
    "majority": _majority,
    "probe": _probe,
    "lora": _trained,
    "full": _trained,
    "zero_shot": _prompted,
    "few_shot": _prompted,
}
