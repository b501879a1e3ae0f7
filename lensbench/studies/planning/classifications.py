"""What telling labels apart takes, method by method and seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from lensbench.checkpoints.open import building, whole_config
from lensbench.checkpoints.ref import ModelRef
from lensbench.classification import prompting
from lensbench.classification.measured import Measuring, Run, shown_examples
from lensbench.classification.probe import BATCH_TOKENS
from lensbench.classification.spec import OF_ENCODER, PROMPTED, TRAINED
from lensbench.costs.cost import Cost, total, unpadded
from lensbench.costs.encoders import encoder_outlined
from lensbench.costs.outlined import Outlined, outlined
from lensbench.costs.planned import Jobs
from lensbench.costs.shape import Shape
from lensbench.models.model import LensModel
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.adapters.lora import match
from lensbench.quantized.peaks import Batch
from lensbench.quantized.training.exact import in_steps
from lensbench.records.schema.text.classification import COSTS, PREDICTIONS
from lensbench.studies.planning.trainings import Trained


@dataclass(frozen=True)
class Runs:
    """The runs of one set's record, planned of its models' outlines."""

    context: Measuring

    @property
    def _known(self) -> Outlined[TextEncoder]:
        """The model that most methods read with."""
        assert self.context.encoder is not None
        return encoder_outlined(self.context.encoder, None, self.context.spec.device)

    @property
    def encoder(self) -> Shape:
        """Its shape."""
        return self._known.shape

    @cached_property
    def adapted(self) -> Trained:
        """What a step with an adapter goes through."""
        from transformers import AutoModelForSequenceClassification

        assert self.context.encoder is not None
        config = whole_config(self.context.encoder.folder)
        with building(config):
            model = AutoModelForSequenceClassification.from_config(config)
        lora = self.context.spec.lora
        return Trained.of_model(self.encoder, model, match(model, lora), lora.rank)

    def cost(self, run: Run) -> Cost:
        """One run of a method."""
        n, methods = len(self.context.parted.test), 1 + (run.method in PROMPTED)
        rows = Cost(rows={PREDICTIONS.name: n * methods, COSTS.name: 1})
        if run.method in TRAINED:
            adapted = run.method == "lora"
            return rows + self._learnt(run) + self._read(self._test, adapted)
        if run.method in OF_ENCODER:
            return rows + self._read(self._train) + self._read(self._test)
        return rows + (self._prompted(run) if run.method in PROMPTED else Cost())

    @property
    def _train(self) -> list[int]:
        return [len(ids) for ids in self.context.tokens[0].token_ids]

    @property
    def _test(self) -> list[int]:
        return [len(ids) for ids in self.context.tokens[1].token_ids]

    def _read(self, lengths: Sequence[int], adapted: bool = False) -> Cost:
        """Every text once by the encoder, or by it with an adapter."""
        batches = [[lengths[i] for i in own] for own in plan_batches(lengths, BATCH_TOKENS)]
        if adapted:
            return total(self.adapted.forward(own, 0) for own in batches)
        held = (self.encoder.held("lens", Batch(len(own), max(own), n_read=0)) for own in batches)
        return total(_pass(self.encoder, own) for own in batches) + Cost(working_bytes=max(held))

    def _learnt(self, run: Run) -> Cost:
        """Every epoch's steps: forward, and back to what is trained."""
        found, held = list[Cost](), 0
        for batch in self._batches(run.seed):
            held = max(held, self.encoder.held("train", Batch(len(batch), max(batch))))
            if run.method == "lora":
                found += [self.adapted.forward(batch, 0), self.adapted.back(batch, 0)]
            else:
                found += [_pass(self.encoder, batch), self._back(batch)]
        # Of all weights also their gradients, and both moments of Adam.
        held += 3 * self._known.weights if run.method == "full" else 0
        return total(found) + Cost(working_bytes=held)

    def _back(self, lengths: Sequence[int]) -> Cost:
        """By the states of every block and by their weights."""
        n, longest = len(lengths), max(lengths)
        back = self.encoder.back(n, longest)
        by_weights = 2.0 * self.encoder.block_weights * n * longest
        return replace(back, n_padded=0, flops=back.flops + by_weights)

    def _batches(self, seed: int) -> Iterator[list[int]]:
        """Tokens of each text, in the trainer's own order."""
        lengths, spec = self._train, self.context.spec
        n_steps = spec.epochs * math.ceil(len(lengths) / spec.batch_size)
        for items in islice(in_steps(lengths, spec.batch_size, seed), n_steps):
            yield [lengths[i] for i in items]

    def _prompted(self, run: Run) -> Cost:
        """Every tested text with its labels behind it, and texts without content."""
        (ref,) = [ref for ref in self.context.causal if str(ref) == run.model]
        known = outlined(ref, None, self.context.spec.device)
        form = prompting.Form.of(self.context.spec.template)
        encoder, labels = known.model.encoder(where="labels"), self.context.labels
        words = prompting.label_words(encoder, known.model.name, form, labels)
        shown = shown_examples(self.context, run) if run.method == "few_shot" else []
        texts = [one.text for one in self.context.parted.test]
        # Where an encoder counts for the record's memory, a model that is larger takes more.
        own = 0 if self.context.encoder is None else self._known.weights
        more = max(known.weights - own, 0) if own else 0
        passes = total(
            _asked(known, prompting.prompts_of(known.model, form, words, shown, own)[0], words)
            for own in (texts, prompting.CONTENT_FREE)
        )
        return replace(passes, working_bytes=passes.working_bytes + more)


def classification(context: Measuring) -> Jobs[Run]:
    """The runs of one set."""
    runs = Runs(context)
    n_models = sum(run.model is not None for run in context.runs)
    n_texts = len(context.parted.train) + len(context.parted.test)
    return Jobs([context.runs], runs.cost, n_prompts=n_texts, n_models=n_models)


def mostly_read(context: Measuring) -> ModelRef | None:
    """The model whose weights most passes read: the encoder, if there is one."""
    return context.encoder or next(iter(context.causal), None)


def _pass(shape: Shape, lengths: Sequence[int]) -> Cost:
    return shape.batch(len(lengths), max(lengths), 0) + unpadded(lengths)


def _asked(
    known: Outlined[LensModel], prompts: Sequence[prompting.Ids], words: prompting.Words
) -> Cost:
    """The passes of `prompting.label_bits`."""
    rows, places = prompting.rows_of(prompts, words.token_ids)
    switch, found = known.model.rope_switch, list[Cost]()
    for items in plan_batches([len(row) for row in rows], prompting.BATCH_TOKENS, switch):
        columns = {position for item in items for position in places[item]}
        own = [rows[item] for item in items]
        # Of every row the model's logits at every column that one of them is read at.
        made = Batch(len(own), max(map(len, own)), n_read=0, n_logits=len(own) * len(columns))
        held = known.shape.held("lens", made)
        found.append(known.shape.texts(own, len(columns)) + Cost(working_bytes=held))
    return total(found)
