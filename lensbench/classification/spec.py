"""What is classified, by which methods, and how each of them learns."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.quantized.adapters.spec import Lora
from lensbench.spec import ARGUMENT, Count, Device, Numbers, Positive, Seed, Share, Spec, repeated

Method = Literal["majority", "probe", "lora", "full", "zero_shot", "few_shot"]
TRAINED: tuple[Method, ...] = ("lora", "full")  # the encoder's weights, or an adapter's
OF_ENCODER: tuple[Method, ...] = ("probe", *TRAINED)
PROMPTED: tuple[Method, ...] = ("zero_shot", "few_shot")
DRAWN: tuple[Method, ...] = (*TRAINED, "few_shot")  # by whose seed even with the texts' own labels
METHODS: tuple[Method, ...] = ("majority", *OF_ENCODER, *PROMPTED)
SHIPPED = "reviews"  # sentences written for lensbench, each subject once praised, once not
TEXT, LABEL = "{text}", "{label}"  # of a template


class ClassifySpec(Spec):
    """Labelled texts told apart by training an encoder, and by prompting causal models."""

    alone = "it tells how long each training takes, which others beside it would change"

    data: Annotated[tuple[str, ...], Field(min_length=1, exclude=True), ARGUMENT] = (SHIPPED,)
    """reviews (300 shipped sentences), pang-lee (200 of film reviews, in place from gensim), a .csv
    or .jsonl with text and label (and id, group: what is never parted), or a data set of the hub
    that `lensbench pull` fetched, such as hub:stanfordnlp/sst2/train. A record of each."""
    encoder: Annotated[str, Field(exclude=True)] = "all-minilm-l6-v2"
    """A text encoder (BERT, DistilBERT, RoBERTa, ELECTRA), an alias, hub name or folder."""
    causal: Annotated[
        tuple[str, ...], Field(exclude=True), Parameter("--causal", consume_multiple=True)
    ] = ()
    """Causal models to prompt."""
    methods: Annotated[
        tuple[Method, ...], Field(min_length=1), Parameter("--methods", consume_multiple=True)
    ] = METHODS
    """Any of majority, probe, lora, full, zero_shot, few_shot; the last two if there are models to
    prompt."""
    seeds: Numbers = (0, 1, 2, 3, 4)
    """Of new weights, the order of training, and the examples shown; such as 0-4."""
    shuffled: Annotated[bool, Parameter(negative="--no-shuffled")] = True
    """As a control, also learn from labels that are dealt out anew."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of each label's examples, so many are tested; the rest is learnt from."""
    split_seed: Seed = 0
    """Which ones."""
    limit: Count | None = None
    """At most so many examples, of all labels alike. Default: all."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens of a text that the encoder reads; longer ones are cut, and counted. Default: as many
    as it can."""
    lora: Annotated[Lora, Parameter("*")] = Lora()
    """The adapter's size and place."""
    epochs: Count = 10
    """Times through the examples, of lora and full."""
    batch_size: Count = 16
    """Examples in a step."""
    lora_learning_rate: Positive = 1e-3
    """Of the adapter and the head, at its peak."""
    full_learning_rate: Positive = 1e-4
    """Of all weights, at its peak."""
    warmup: Share = 0.1
    """Share of steps in which the learning rate rises; then it falls by a cosine to zero."""
    checkpoint_every: Annotated[Count, Field(exclude=True)] = 500
    """Steps between checkpoints; a shorter training that was interrupted is begun anew."""
    shots: Count = 4
    """Examples of each label in a few-shot prompt."""
    template: str = f"Review: {TEXT}\nSentiment: {LABEL}"
    """How a text is put before a causal model: its label follows, as a word."""
    device: Device = None

    def problems(self) -> list[Problem]:
        """Names that stand twice, nobody to prompt, a template without its two places."""
        found = [
            problem
            for key in ("data", "causal", "methods")
            for problem in repeated(key, getattr(self, key))
        ]
        asked = [one for one in self.methods if one in PROMPTED]
        if asked and not self.causal and "methods" in self.model_fields_set:
            what = (
                f"{' and '.join(asked)} {'need' if len(asked) > 1 else 'needs'} a model to prompt"
            )
            found.append(Problem("causal", what, "Name one, such as smollm2-135m."))
        if self.causal and not asked:
            found.append(Problem("causal", "no method prompts them", "Leave it out."))
        if self.template.count(TEXT) != 1 or not self.template.endswith(LABEL):
            what = f"it needs {TEXT} once, and {LABEL} at its end"
            found.append(Problem("template", what, f"Write it as 'Text: {TEXT} Label: {LABEL}'."))
        elif self.template.count(LABEL) != 1:
            found.append(Problem("template", f"{LABEL} stands twice", "Write it once."))
        if not self.seeds:
            found.append(Problem("seeds", "there are none", "Give some, such as 0-4."))
        return found
