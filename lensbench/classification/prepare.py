"""Everything that is asked, checked before a model is loaded."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.encoders import ENCODERS
from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.classification.examples import LabelledSet
from lensbench.classification.measured import Measuring
from lensbench.classification.prompting import Form, label_words
from lensbench.classification.spec import OF_ENCODER, TRAINED, ClassifySpec
from lensbench.classification.split import Parted, parted
from lensbench.errors import InputProblems, Problem, packages_of
from lensbench.models.adapted import facts_of, require_loadable
from lensbench.models.readable import reads_both_ways
from lensbench.models.text_encoder import require_encoder_loadable
from lensbench.progress import Watch, ignore
from lensbench.prompts.encode import Encoder


def models_of(spec: ClassifySpec) -> tuple[ModelRef | None, list[ModelRef]]:
    """The encoder, where a method needs one, and the causal models to prompt.

    Raises InputProblems naming a decoder where an encoder is needed, and the other way round;
    ModelError for a model that is not here; MissingExtraError without what trains.
    """
    _require_packages(spec)
    asked = [spec.encoder] if set(spec.methods) & set(OF_ENCODER) else []
    encoders = model_refs(asked)
    causal = model_refs(spec.causal) if spec.causal else []
    for ref in [*encoders, *causal]:
        ref.folder  # noqa: B018  is it there?
    problems = [problem for ref in encoders for problem in _encoder_problems(ref)]
    problems += [
        Problem(
            "causal",
            f"{ref} is a text encoder and says no next word, so that it cannot be prompted",
            "Take a decoder, such as smollm2-135m.",
        )
        for ref in causal
        if reads_both_ways(ref)
    ]
    if problems:
        raise InputProblems(problems)
    return (encoders[0] if encoders else None), causal


def _encoder_problems(ref: ModelRef) -> list[Problem]:
    if not reads_both_ways(ref):
        what, remedy = f"{ref} is no text encoder", f"Take one of type {', '.join(ENCODERS)}."
        return [Problem("encoder", what, remedy)]
    if not ref.plain:
        what = f"{ref}: an encoder is trained in float32, without an adapter"
        return [Problem("encoder", what, f"Name it alone: {ref.name}.")]
    return []


def _require_packages(spec: ClassifySpec) -> None:
    with packages_of("classify", "accelerate", "peft", "sklearn"):
        if set(spec.methods) & set(TRAINED):
            import accelerate  # noqa: F401
        if "lora" in spec.methods:
            import peft  # noqa: F401
        if "probe" in spec.methods:
            import sklearn  # noqa: F401


def prepared(
    spec: ClassifySpec,
    found: LabelledSet,
    models: tuple[ModelRef | None, list[ModelRef]],
    folder: Path | None = None,
    watch: Watch = ignore,
) -> Measuring:
    """The examples parted, and who learns from them.

    Raises InputProblems as `parted`, for labels of which fewer are there than are to be shown, and
    as `label_words`.
    """
    kept = found.at_most(spec.limit, spec.split_seed)
    parts = parted(kept.examples, spec.test_share, spec.split_seed, found.name)
    if spec.causal and "few_shot" in spec.methods:
        _require_shown(spec.shots, parts, kept)
    _require_words(spec.template, kept.labels, models[1])
    return Measuring(spec, parts, kept.labels, *models, folder, watch)


def _require_shown(shots: int, parts: Parted, found: LabelledSet) -> None:
    """A prompt shows as many of each label as are asked for, or is not made."""
    there = Counter(one.label for one in parts.train)
    problems = [
        Problem(
            f"{found.name}, label {label[:40]!r}",
            f"{there[label]} to learn from, and few_shot shows {shots} of each label",
            f"Give `shots` of at most {min(there.values())}, or more examples.",
        )
        for label in found.labels
        if there[label] < shots
    ]
    if problems:
        raise InputProblems(problems)


def _require_words(template: str, labels: Sequence[str], causal: Sequence[ModelRef]) -> None:
    """Every model can be asked the labels apart: known before the first training, not behind it."""
    problems: list[Problem] = []
    for ref in causal:
        with quiet():
            encoder = Encoder(open_tokenizer(ref.folder), sys.maxsize, where="labels")
        try:
            label_words(encoder, str(ref), Form.of(template), labels)
        except InputProblems as error:
            problems += error.problems
    if problems:
        raise InputProblems(problems)


def model_facts(context: Measuring, name: str, new: bool = False) -> dict[str, Any]:
    """The models' part of a manifest; of a `new` one all that are too large are refused first.

    Raises ModelError.
    """
    device, refs, encoder = context.spec.device, context.causal, context.encoder
    for ref in refs if new else []:
        require_loadable(ref, None, device)
    if encoder is not None and new:
        require_encoder_loadable(encoder.folder, device)
    own = None if encoder is None else _named(encoder) | encoder.facts()
    causal = {str(ref): _named(ref) | facts_of(ref, None, device) for ref in refs}
    return {"name": name, "encoder": own, "causal": causal}


def _named(ref: ModelRef) -> dict[str, Any]:
    return {"name": str(ref), "source": ref.located.source}


def example_facts(context: Measuring) -> dict[str, Any]:
    """What was learnt from and tested, for a manifest."""
    tested = Counter(one.label for one in context.parted.test)
    return {
        "n_train": len(context.parted.train),
        "n_test": len(context.parted.test),
        "labels": dict(sorted(tested.items())),
    }


def names_of(found: Sequence[LabelledSet]) -> list[str]:
    """The sets' names. Raises InputProblems where two files have the same one."""
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        remedy = "Rename a file: each set has a record under its name."
        raise InputProblems([Problem("data", f"{n} stands twice", remedy) for n in twice])
    return names
