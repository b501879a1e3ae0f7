"""What classification is planned to take, held to the operations that torch counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lensbench as lb
from lensbench.classification import prompting
from lensbench.classification.examples import load_every
from lensbench.classification.measured import Measuring, measure, shown_examples
from lensbench.classification.prepare import models_of, prepared
from lensbench.classification.spec import ClassifySpec
from lensbench.costs.shape import Shape
from lensbench.models.load import load_model
from lensbench.quantized.peaks import Batch, Verb
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.residuals.capture import Residuals
from lensbench.studies.planning.classifications import Runs
from tests.harness.encoders import save_encoder
from tests.harness.files import write_csv
from tests.harness.flops import counted
from tests.harness.tiny import Case

pytest.importorskip("sklearn")

GOOD = ("gold", "silver", "music", "river")
ROWS = [
    {"id": f"{kind}-{n}", "text": f"a {word} {'garden ' * (n % 3)}", "label": kind}
    for kind, words in (("good", GOOD), ("bad", GOOD[::-1]))
    for n, word in enumerate(words * 2)
]


@pytest.fixture(scope="module")
def spec(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> ClassifySpec:
    folder = tmp_path_factory.mktemp("classified")
    return ClassifySpec(
        data=(str(write_csv(folder / "words.csv", ROWS)),),
        encoder=str(save_encoder("bert", folder / "encoder")),
        causal=(str(llama.folder),),
        seeds=(0, 1),
        epochs=2,
        batch_size=3,
        template="{text}: {label}",
        shots=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def context(spec: ClassifySpec) -> Measuring:
    (found,) = load_every(spec.data)
    return prepared(spec, found, models_of(spec))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["majority", "probe", "lora", "full"])
def test_the_operations_of_a_run_are_those_that_torch_makes(
    method: str, context: Measuring
) -> None:
    run = next(own for own in context.runs if own.method == method)
    parts = list[Part]()
    made = counted(lambda: parts.append(measure(context, Job(0, run))))
    cost = Runs(context).cost(run)
    assert cost.rows == {name: len(rows) for name, rows in parts[0].tables.items()}
    tried = 2 * 256**3 if method != "majority" else 0  # loading tries the processor with a product
    # Pooler and head see one token of each text.
    assert cost.flops == pytest.approx(made - tried, rel=0.02)


@pytest.mark.parametrize("method", ["zero_shot", "few_shot"])
def test_the_operations_of_prompts_are_those_that_torch_makes(
    method: str, context: Measuring
) -> None:
    run = next(own for own in context.runs if own.method == method)
    model = load_model(context.causal[0], device="cpu")
    _ = model.shares_prefixes  # found out by passes of its own
    form, labels = prompting.Form.of(context.spec.template), context.labels
    words = prompting.label_words(model.encoder(where="labels"), model.name, form, labels)
    shown = shown_examples(context, run) if method == "few_shot" else []
    texts = [one.text for one in context.parted.test]
    asked = texts, prompting.CONTENT_FREE
    made = counted(lambda: [prompting.ask(model, form, words, shown, one) for one in asked])
    assert Runs(context).cost(run).flops == made


@pytest.mark.parametrize("method", ["zero_shot", "few_shot"])
def test_the_memory_of_prompts_counts_the_rows_of_logits_that_a_model_makes(
    method: str, context: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every text at every column that one of a batch is read at."""
    run = next(own for own in context.runs if own.method == method)
    planned, made = list[int](), list[int]()
    held, capture = Shape.held, prompting.capture_positions

    def noted(shape: Shape, verb: Verb, batch: Batch) -> int:
        planned.append(batch.n_logits)
        return held(shape, verb, batch)

    def read(*args: Any, **how: Any) -> Residuals:
        found = capture(*args, **how)
        assert found.logits is not None
        made.append(found.logits.shape[:2].numel())
        return found

    monkeypatch.setattr(Shape, "held", noted)
    Runs(context).cost(run)
    monkeypatch.setattr(prompting, "capture_positions", read)
    measure(context, Job(0, run))
    assert planned == made
    assert max(made) > len(context.parted.test)


def test_a_plan_has_a_run_of_every_method(spec: ClassifySpec, context: Measuring) -> None:
    (planned,) = lb.plan(spec, Path("nowhere")).records
    assert not planned.obstacles and planned.left is not None
    assert planned.n_jobs == len(context.runs)
    assert planned.n_prompts == len(context.parted.train) + len(context.parted.test)
    assert planned.left.rows["class_costs"] == len(context.runs)
