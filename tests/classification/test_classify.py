"""`lensbench classify`: methods against plain transformers and PEFT, records, and bad input."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import lensbench as lb
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.source import locate
from lensbench.classification.accuracy import accuracy_rows
from lensbench.classification.encoder import encoded, new_classifier
from lensbench.classification.examples import Example
from lensbench.classification.measured import with_adapter
from lensbench.classification.probe import fitted, pooled_states, probabilities
from lensbench.classification.prompting import (
    Form,
    ask,
    calibrated,
    label_bits,
    label_words,
    shares,
)
from lensbench.classification.result import Classified
from lensbench.classification.spec import ClassifySpec
from lensbench.cli.text.classify import show
from lensbench.corpora.hub import DataSet
from lensbench.errors import InputProblems, ModelError
from lensbench.models.text_encoder import load_encoder
from lensbench.progress import Progress
from lensbench.quantized.rag.embedding import Embedder
from lensbench.records.schema.text.classification import PUBLISHED
from lensbench.report.build import build_report
from lensbench.report.classification.section import _findings
from lensbench.stats.estimates import Estimate, clustered_estimate
from lensbench.stats.intervals import of_share
from lensbench.studies.classify import run
from tests.harness.encoders import save_encoder
from tests.harness.files import table_bytes, tables, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import Case

ROOT = Path(__file__).parents[2]

GOOD, BAD = ["gold", "silver", "music", "garden"], ["river", "stone", "desert", "winter"]
ROWS = [
    {"id": f"{label}{n}", "text": " ".join([a, b, "city"]), "label": label, "group": ""}
    for label, words in (("bread", GOOD), ("water", BAD))
    for n, (a, b) in enumerate(product(words, words))
    if a < b
]
KEPT = ("class_accuracy", "class_predictions")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder("bert", tmp_path_factory.mktemp("encoder") / "both"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_csv(tmp_path_factory.mktemp("data") / "words.csv", ROWS))


@pytest.fixture(scope="module")
def spec(encoder: str, data: str, llama: Case) -> ClassifySpec:
    return ClassifySpec(
        data=(data,),
        encoder=encoder,
        causal=(str(llama.folder),),
        seeds=(0, 1),
        epochs=20,
        batch_size=4,
        lora_learning_rate=5e-2,
        full_learning_rate=5e-3,
        template="{text}: {label}",
        shots=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def measured(spec: ClassifySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = run(spec, tmp_path_factory.mktemp("run"))
    assert outcome.ok, (outcome.failed, outcome.problems)
    return outcome.folder


def kept(folder: Path) -> list[bytes]:
    """What does not tell the time."""
    return [table_bytes(folder)[f"{name}.parquet"] for name in KEPT]


# --- an encoder that is trained -----------------------------------------------------------------


def test_lora_trains_as_many_parameters_as_its_arithmetic_says(tmp_path: Path) -> None:
    """768 x 8 + 8 x 768 of a matrix of 768 x 768, counted by PEFT."""
    from transformers import BertConfig, BertModel

    from tests.harness.tiny_bert import bert_tokenizer

    tokenizer = bert_tokenizer(tmp_path)
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    ref = ModelRef.of(str(tmp_path))
    model, heads = new_classifier(ref, ["a", "b"], 0, "cpu")
    matrix = model.base_model.encoder.layer[0].attention.self.query.weight
    spec = ClassifySpec(lora={"targets": "q", "rank": 8})
    adapted = with_adapter(model, heads, spec, 0, ref)
    head = 2 * 768 + 2
    assert matrix.numel() == 589_824
    assert adapted.get_nb_trainable_parameters()[0] - head == 768 * 8 + 8 * 768 == 12_288


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_a_new_classifier_has_the_checkpoints_blocks_and_a_head_of_its_seed(
    kind: str, tmp_path: Path
) -> None:
    from transformers import AutoModel

    ref = ModelRef.of(str(save_encoder(kind, tmp_path, masked=True)))
    (one, heads), (same, _), (other, _) = (
        new_classifier(ref, ["a", "b", "c"], seed, "cpu") for seed in (0, 0, 1)
    )
    ids = torch.tensor([[2, 8, 9, 3]])
    with torch.inference_mode():
        plain = AutoModel.from_pretrained(tmp_path).eval()(ids).last_hidden_state
        own = one.eval().base_model(ids).last_hidden_state
        logits = [model.eval()(ids).logits for model in (one, same, other)]
    assert torch.allclose(own, plain, atol=1e-5)
    assert logits[0].shape == (1, 3)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=1e-4)
    adapted = with_adapter(one, heads, ClassifySpec(), 0, ref)
    trained = {name for name, own in adapted.named_parameters() if own.requires_grad}
    new = {f"{name}." for name in heads}
    assert all("lora_" in name or any(head in name for head in new) for name in trained)
    blocks = {name for name in trained if "lora_A" in name}
    assert len(blocks) == 3 * 4  # q, k, v, o of each


def test_a_step_of_training_is_adamws(encoder: str, tmp_path: Path) -> None:
    """All examples in one step, against torch's own optimiser on transformers' own loss."""
    from lensbench.classification.trainer import Labelled, fit
    from lensbench.progress import ignore

    ref = ModelRef.of(encoder)
    rate, labels = 1e-2, [0, 1, 1]
    ids = [[2, 7, 3], [2, 8, 9, 3], [2, 9, 3]]
    ours, theirs = (undropped(new_classifier(ref, ["a", "b"], 0, "cpu")[0]) for _ in "ab")
    spec = ClassifySpec(epochs=1, batch_size=3, warmup=0.0, device="cpu")
    fit(ours, Labelled(ids, labels, 0), spec, 0, rate, tmp_path / "x", ignore)

    batch = Labelled(ids, labels, 0).batch([0, 1, 2])
    theirs.train()
    logits = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    cross_entropy(logits, torch.tensor(labels)).backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=0.0).step()
    before = new_classifier(ref, ["a", "b"], 0, "cpu")[0].state_dict()
    moved = 0.0
    for name, weight in ours.state_dict().items():
        if name.endswith("key.bias"):  # no softmax sees it: its gradient is rounding
            continue
        assert torch.allclose(weight, theirs.state_dict()[name], atol=1e-5), name
        moved = max(moved, float((weight - before[name]).abs().max()))
    assert moved == pytest.approx(rate, rel=0.1)  # what Adam's first step is


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_learns_its_examples(method: str, encoder: str, tmp_path: Path) -> None:
    """All of them, and nothing but the adapter and the head moves where there is one."""
    from lensbench.classification.trainer import Labelled, fit, predicted
    from lensbench.progress import ignore

    ref, spec = ModelRef.of(encoder), ClassifySpec(epochs=30, batch_size=4, device="cpu")
    model, heads = new_classifier(ref, ["a", "b"], 0, "cpu")
    undropped(model)
    blocks = {name: weight.clone() for name, weight in model.base_model.state_dict().items()}
    plain = model.base_model
    if method == "lora":
        model = with_adapter(model, heads, spec, 0, ref)
    labels = [n % 2 for n in range(12)]
    texts = Labelled(
        [[2, *[9 + 11 * label] * 4, 7 + n, 3] for n, label in enumerate(labels)], labels, 0
    )
    fit(model, texts, spec, 0, 1e-3 if method == "full" else 1e-2, tmp_path / "x", ignore)
    found = predicted(model, texts)
    assert found.argmax(1).tolist() == texts.labels
    after = {name.replace(".base_layer", ""): own for name, own in plain.state_dict().items()}
    same = [torch.equal(after[name], weight) for name, weight in blocks.items()]
    assert all(same) if method == "lora" else not all(same)


def undropped(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_pooled_states_are_sentence_transformers(bert: Embedder) -> None:
    texts = ["river", "gold silver mountain", "the city and the garden house"]
    plain = load_encoder(bert.place, "cpu")
    tokens = encoded(plain.tokenizer, texts, 32)
    own = pooled_states(plain, tokens.token_ids)
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    assert np.allclose(unit, bert.model.encode(texts), atol=1e-5)


def test_a_probe_tells_labels_apart_that_lie_apart() -> None:
    chance = np.random.default_rng(0)
    labels = [n % 3 for n in range(60)]
    states = chance.normal(size=(60, 5)) + 8 * np.eye(5)[labels]
    found = probabilities(fitted(states, labels), states, 3)
    assert (found.argmax(1) == labels).all()
    assert np.allclose(found.sum(1), 1)


def test_a_text_that_is_cut_is_counted(encoder: str) -> None:
    tokenizer = load_encoder(encoder, "cpu").tokenizer
    found = encoded(tokenizer, ["gold " * 40, "gold " * 8, "gold"], 10)
    assert found.n_cut == 1
    assert list(map(len, found.token_ids)) == [10, 10, 3]  # the second fits exactly


# --- prompts ------------------------------------------------------------------------------------

LABELS = ("gold", "capital of Germany", "river")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_labels_are_scored_as_plain_transformers_scores_them(name: str, tiny_case: Any) -> None:
    """Word by word behind whole prompts, without what they share being run once."""
    case: Case = tiny_case(name)
    form = Form.of("{text} is: {label}")
    words = label_words(case.model.encoder(), case.name, form, LABELS)
    shown = [Example("a", "Rome", "river"), Example("b", "It", "gold")]
    texts = ["The river", "Au", "R"]
    found, n_cut = ask(case.model, form, words, shown, texts)
    assert n_cut == 0
    start = "Rome is: river\n\nIt is: gold\n\n"
    hf, tokenizer = case.fresh_hf(), case.model.tokenizer
    for text, label in product(texts, LABELS):
        prompt = f"{start}{text} is:"
        ids = [tokenizer(end).input_ids for end in (prompt, f"{prompt} {label}")]
        assert ids[1][: len(ids[0])] == ids[0]
        with torch.inference_mode():
            log_p = hf(torch.tensor([ids[1]])).logits[0].double().log_softmax(-1)
        places = range(len(ids[0]), len(ids[1]))
        bits = sum(float(log_p[at - 1, ids[1][at]]) for at in places) / np.log(2)
        own = float(found[texts.index(text), LABELS.index(label)])
        assert own == pytest.approx(bits, abs=2e-4)


def test_calibration_takes_off_what_is_said_without_a_text() -> None:
    """Zhao et al. 2021: p / p_cf, and then a share."""
    bits = torch.log2(torch.tensor([[0.06, 0.04], [0.08, 0.02]], dtype=torch.float64))
    without = torch.log2(torch.tensor([[0.07, 0.03], [0.09, 0.01]], dtype=torch.float64))
    assert torch.allclose(shares(bits), torch.tensor([[0.6, 0.4], [0.8, 0.2]]).double())
    prior = torch.tensor([0.8, 0.2]).double()  # the mean of 0.7, 0.3 and 0.9, 0.1
    odds = torch.tensor([[0.6, 0.4], [0.8, 0.2]]).double() / prior
    assert torch.allclose(calibrated(bits, without), odds / odds.sum(-1, keepdim=True))
    assert calibrated(bits, without)[0].argmax() == 1  # where the plain one says 0


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("gold", " gold"), "the same tokens"),
        (("gold", "gold city"), "'gold city' begins with all tokens of the other"),
        (("gold", " "), "no tokens|empty"),
    ],
)
def test_labels_that_no_model_can_tell_apart(
    llama: Case, labels: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InputProblems, match=told):
        label_words(llama.model.encoder(), llama.name, Form.of("{text}: {label}"), labels)


def test_a_prompt_that_is_too_long_loses_the_end_of_its_text(llama: Case) -> None:
    form = Form.of("{text}: {label}")
    words = label_words(llama.model.encoder(), llama.name, form, ["gold", "river"])
    found = ask(llama.model, form, words, [], ["river " * 500, "river"])
    assert found.n_cut == 1
    short = ask(llama.model, form, words, [], ["river"])
    assert torch.allclose(found.bits[1], short.bits[0], atol=1e-4)
    many = [Example("a", "river " * 100, "gold")]
    with pytest.raises(InputProblems, match="has room for"):
        ask(llama.model, form, words, many, ["river"])


def test_scores_that_are_no_numbers_are_refused(overflowing: Path) -> None:
    from lensbench.models.load import load_model

    model = load_model(str(overflowing), device="cpu")
    ids = tuple(model.tokenizer("The capital is Rome").input_ids)
    with pytest.raises(ModelError, match="NaN"):
        label_bits(model, [ids], [(5,), (6,)])


# --- the record ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_to_be_learnt_is_learnt_and_shuffled_labels_are_not(measured: Path) -> None:
    accuracy = tables(measured)["class_accuracy"].set_index(["method", "labels"])["accuracy"]
    assert accuracy["probe", "own"] >= 0.8
    assert accuracy["probe", "shuffled"] < accuracy["probe", "own"]
    assert accuracy["majority", "own"] == 0.5
    predictions = tables(measured)["class_predictions"]
    assert set(predictions.loc[predictions["method"] == "majority", "predicted"]) == {"bread"}


@pytest.mark.slow
def test_every_method_is_tested_on_the_same_texts(measured: Path) -> None:
    predictions = tables(measured)["class_predictions"]
    texts = predictions.groupby(["method", "labels", "seed"])["example_id"].apply(tuple)
    assert texts.nunique() == 1
    methods = {"majority", "probe", "lora", "full", "zero_shot", "few_shot"}
    methods |= {"zero_shot_calibrated", "few_shot_calibrated"}
    assert set(predictions["method"]) == methods
    seeds = predictions.groupby(["method", "labels"])["seed"].nunique()
    assert seeds["zero_shot", "own"] == seeds["probe", "own"] == 1
    assert seeds["probe", "shuffled"] == seeds["few_shot", "own"] == 2
    assert ("zero_shot", "shuffled") not in seeds.index


@pytest.mark.slow
def test_costs_are_those_of_the_models(measured: Path, encoder: str) -> None:
    costs = tables(measured)["class_costs"].set_index(["method", "labels", "seed"])
    whole = sum(weight.numel() for weight in load_encoder(encoder).hf.parameters()) + 2 * 32 + 2
    assert costs.loc["full", "own", 0]["n_trainable"] == whole
    lora = 3 * 4 * (32 * 8 + 8 * 32) + 2 * 32 + 2
    assert costs.loc["lora", "own", 0]["n_trainable"] == lora
    assert 4 * lora < costs.loc["lora", "own", 0]["saved_bytes"] < 4 * lora + 8000
    assert costs.loc["probe", "own", 0]["n_trainable"] == 32 + 1
    assert costs["learn_wall_s"].drop(["zero_shot", "few_shot"], level=0).notna().all()
    assert (costs["test_wall_s"] > 0).all()


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_to_the_same_tables(
    spec: ClassifySpec, measured: Path, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.unit == "runs" and now.done == 7:
            raise Stop

    with pytest.raises(Stop):
        run(spec, tmp_path, stop)
    folder = run(spec, tmp_path).folder
    assert kept(folder) == kept(measured)
    before = table_bytes(folder)
    run(spec, tmp_path)
    assert table_bytes(folder) == before
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_python_gives_what_the_study_gives(spec: ClassifySpec, measured: Path, data: str) -> None:
    options = spec.shared(ClassifySpec) | {"methods": ("majority", "probe", "zero_shot")}
    options |= {"data": data}
    found = lb.classify(**options)
    wanted = tables(measured)["class_accuracy"]
    wanted = wanted[wanted["method"].isin(set(found.accuracy["method"]))]
    columns = ["method", "labels", "accuracy", "accuracy_low", "accuracy_high", "n_test"]
    both = [one[columns].reset_index(drop=True) for one in (found.accuracy, wanted)]
    pd.testing.assert_frame_equal(*both)
    assert (
        found.table.set_index(["method", "labels"]).loc[
            ("zero_shot_calibrated", "own"), "n_trainable"
        ]
        == 0
    )


@pytest.mark.slow
def test_the_report_has_a_row_for_each_method(measured: Path) -> None:
    build_report([measured])
    text = (measured / "report.md").read_text(encoding="utf-8")
    for method in ("probe", "lora", "few_shot_calibrated"):
        assert f"| {method} |" in text
    assert "DistilBERT on SST-2" in text
    assert "another model and other texts" in text


# --- accuracy -----------------------------------------------------------------------------------


def answers(method: str, seed: int, hits: list[int]) -> list[dict[str, Any]]:
    return [
        {"method": method, "model": "m", "labels": "own", "seed": seed}
        | {"example_id": f"e{n}", "bunch": f"e{n}", "label": "a", "predicted": "a" if hit else "b"}
        for n, hit in enumerate(hits)
    ]


def test_accuracy_of_one_seed_has_clopper_and_pearsons_interval() -> None:
    from scipy.stats import binomtest

    (row,) = accuracy_rows(pd.DataFrame(answers("probe", 0, [1] * 15 + [0] * 5)))
    ends = binomtest(15, 20).proportion_ci(method="exact")
    assert row["accuracy"] == 0.75
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((ends.low, ends.high))
    assert row["seeds_low"] is None
    assert row["less_full_pp"] is None


def test_seeds_that_agree_count_as_one_and_gaps_are_paired() -> None:
    hits = [1] * 15 + [0] * 5
    better = [1] * 19 + [0]
    rows = [one for seed in (0, 1, 2) for one in answers("lora", seed, hits)]
    rows += [one for seed in (0, 1, 2) for one in answers("full", seed, better)]
    lora, full = accuracy_rows(pd.DataFrame(rows))
    groups = np.tile(np.arange(20), 3)
    ends = of_share(np.tile(hits, 3).astype(float), groups)
    assert (lora["accuracy_low"], lora["accuracy_high"]) == pytest.approx(ends)
    (alone,) = accuracy_rows(pd.DataFrame(answers("lora", 0, hits)))
    assert lora["accuracy_low"] == pytest.approx(alone["accuracy_low"], abs=0.03)
    assert lora["less_full_pp"] == pytest.approx(-4 / 20)
    assert full["less_full_pp"] is None
    assert lora["less_full_pp_low"] is None  # seeds that agree say nothing of their spread
    assert lora["n_seeds"] == 3


def test_the_interval_over_seeds_is_students() -> None:
    """Of three seeds' accuracies, whatever the texts."""
    from scipy.stats import t

    made = [[1] * 10 + [0] * 10, [1] * 14 + [0] * 6, [1] * 12 + [0] * 8]
    rows = [one for seed, hits in enumerate(made) for one in answers("lora", seed, hits)]
    (row,) = accuracy_rows(pd.DataFrame(rows))
    each = np.array([0.5, 0.7, 0.6])
    half = t.ppf(0.975, 2) * each.std(ddof=1) / np.sqrt(3)
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx((0.6 - half, 0.6 + half))


def crossed(method: str, chance: np.random.Generator, spread: float) -> list[dict[str, Any]]:
    """Answers of three seeds, each with a skill of its own around 70 %, to the same 120 texts."""
    skills = 0.7 + spread * chance.normal(size=3)
    return [
        row
        for seed, skill in enumerate(skills)
        for row in answers(method, seed, [int(one < skill) for one in chance.random(120)])
    ]


def test_a_difference_is_claimed_only_where_it_holds_over_seeds_and_texts() -> None:
    """Of two methods that are equally good, one in 20 may be told apart; of 60 runs at most 7.

    By texts alone, the seeds as they are, a third would be.
    """
    chance = np.random.default_rng(0)
    claimed, by_texts = 0, 0
    for _ in range(60):
        rows = [*crossed("lora", chance, 0.1), *crossed("full", chance, 0.1)]
        lora, _ = accuracy_rows(pd.DataFrame(rows))
        low, high = lora["less_full_pp_low"], lora["less_full_pp_high"]
        claimed += low is not None and not low <= 0 <= high
        hits = pd.DataFrame(rows).assign(hit=lambda one: one["label"] == one["predicted"])
        each = hits.groupby(["method", "example_id"])["hit"].mean()
        found = clustered_estimate(each["lora"] - each["full"])
        assert found.low is not None and found.high is not None
        by_texts += not found.low <= 0 <= found.high
    assert claimed <= 7
    assert by_texts >= 20


@pytest.mark.parametrize(
    ("method", "seeds", "known"),
    [
        ("probe", 1, True),
        ("zero_shot_calibrated", 1, True),
        ("lora", 1, False),
        ("few_shot", 1, False),
        ("few_shot_calibrated", 3, True),
    ],
)
def test_what_is_drawn_needs_seeds_to_be_told_from_fine_tuning(
    method: str, seeds: int, known: bool
) -> None:
    chance = np.random.default_rng(1)
    rows = [one for one in crossed(method, chance, 0.05) if one["seed"] < seeds]
    row, _ = accuracy_rows(pd.DataFrame([*rows, *crossed("full", chance, 0.05)]))
    assert (row["less_full_pp_low"] is not None) == known
    full = [one for one in crossed("full", chance, 0.0) if one["seed"] == 0]
    row, _ = accuracy_rows(pd.DataFrame([*rows, *full]))
    assert row["less_full_pp_low"] is None  # one seed of fine-tuning says nothing of others


def test_a_report_claims_what_holds_over_texts_and_seeds() -> None:
    """Its words follow the interval, and a control of one seed is not said to be at chance."""
    some, none = Estimate(0.1, 0.02, 0.18, 9, 9), Estimate(0.1, None, None, 9, 9, "one seed")
    at, off = Estimate(0.5, 0.45, 0.55, 9, 9), Estimate(0.6, 0.55, 0.65, 9, 9)
    wide = Estimate(0.6, 0.3, 0.9, 3, 3)
    rows = [
        ("majority", "own", at, Estimate(0.5, None, None, 1, 1), 0, some),
        ("lora", "own", off, wide, 1, some),
        ("few_shot", "own", off, wide, 0, none),
        ("probe", "shuffled", at, at, 1, some),
        ("lora", "shuffled", off, wide, 1, some),
        ("full", "shuffled", off, none, 1, none),
    ]
    frame = pd.DataFrame(
        {"method": method, "model": None, "labels": labels, "n_trainable": n, "n_test": 9}
        | {"accuracy": one, "over_seeds_accuracy": seeds, "less_full_pp": gap}
        for method, labels, one, seeds, n, gap in rows
    )
    told = list(_findings(frame))
    assert any(line.startswith("lora is above full fine-tuning") for line in told)
    assert any(line.startswith("few-shot beside full fine-tuning") for line in told)
    assert told[-1].startswith("Trained on shuffled labels, 2 of 3 methods have chance")
    assert told[-1].endswith("; 1 has no such interval")


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": ("zero_shot",)}, "zero_shot needs a model to prompt"),
        ({"template": "no place"}, "needs {text} once"),
        ({"template": "{text} {label} {label}"}, "stands twice"),
        ({"methods": ("probe",), "causal": ("x",)}, "no method prompts them"),
        ({"methods": ("knn",)}, "Choose from"),
        ({"test_share": 1.0}, "Give less than 1"),
        ({"shots": 0}, "Give at least 1"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputProblems, match=told):
        ClassifySpec(**options)


def test_more_examples_than_there_are_are_refused(spec: ClassifySpec, tmp_path: Path) -> None:
    """A prompt of three would be said to show four of each label."""
    (told,) = run(spec.changed(shots=4), tmp_path).failed.values()
    assert "label 'bread': 3 to learn from, and few_shot shows 4 of each label" in str(told)


def test_labels_of_the_same_tokens_are_refused_before_anything_is_learnt(
    spec: ClassifySpec, tmp_path: Path
) -> None:
    rows = [f"{n},{'gold' if n % 2 else 'gold city'}" for n in range(16)]
    data = tmp_path / "alike.csv"
    data.write_text("\n".join(["text,label", *rows]))
    steps: list[str] = []
    (told,) = run(
        spec.changed(data=(str(data),)), tmp_path, lambda p: steps.append(p.stage)
    ).failed.values()
    assert "labels: 'gold city' begins with all tokens of the other" in str(told)
    assert steps == []


def test_a_decoder_is_no_encoder_and_the_other_way_round(
    spec: ClassifySpec, llama: Case, encoder: str, tmp_path: Path
) -> None:
    turned = spec.changed(encoder=str(llama.folder), causal=(encoder,))
    with pytest.raises(InputProblems) as caught:
        run(turned, tmp_path)
    assert "is no text encoder. Take one of type bert" in str(caught.value)
    assert "says no next word" in str(caught.value)
    with pytest.raises(InputProblems, match="No model is called 'all-minilm'"):
        run(spec.changed(encoder="all-minilm"), tmp_path)


def test_the_program_shows_a_table_and_refuses_in_one_message(
    lensbench: Program, data: str, encoder: str, tmp_path: Path
) -> None:
    options = ("--encoder", encoder, "--methods", "majority", "probe", "--device", "cpu")
    bad = tmp_path / "bad.csv"
    write_csv(bad, [*ROWS, {"id": "none", "text": " ", "label": "bread", "group": ""}])
    done = lensbench("classify", bad, *options, "--no-shuffled")
    assert done.status == 1
    assert "majority" in done.out and "50.0" in done.out
    assert "bad.csv, row 14, id none: the text is empty" in done.said


def test_what_is_shown_fits_80_columns_with_names_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of the committed run: every method, and numbers of its size."""
    monkeypatch.setenv("COLUMNS", "80")
    record = lb.open_record(ROOT / "reports" / "012_prompt_or_finetune" / "reviews")
    tables = [record.table(f"class_{name}") for name in ("accuracy", "predictions", "costs")]
    show(Classified("reviews", *tables, []))
    shown = capsys.readouterr().out.splitlines()
    assert not [line for line in shown if "nan" in line or "e-0" in line]
    assert max(map(len, shown)) <= 80
    for name in ("zero_shot *", "few_shot *", "all-minilm-l6-v2", "22,713,986", "shuffled"):
        assert any(name in line for line in shown), name


@pytest.mark.slow
def test_the_program_writes_the_table_as_json(lensbench: Program, data: str, encoder: str) -> None:
    options = ("--encoder", encoder, "--methods", "majority", "probe", "--device", "cpu")
    told = json.loads(lensbench("classify", data, *options, "--json").out)
    assert [(row["method"], row["labels"]) for row in told][:2] == [
        ("majority", "own"),
        ("probe", "own"),
    ]
    assert told[0]["seeds_low"] is None


# --- what is said elsewhere ---------------------------------------------------------------------

DISTILBERT, SST2 = "distilbert/distilbert-base-uncased", "hub:stanfordnlp/sst2/train"


@pytest.mark.slow
def test_distilbert_on_sst2_is_near_what_is_published() -> None:
    """91 % of all weights, 85 to 88 % of LoRA: rounded, of no named run; within 4 points."""
    if locate(DISTILBERT).folder is None or not DataSet.of(SST2).pin.is_file():
        pytest.skip(f"not in the cache; fetch both with: lensbench pull {DISTILBERT} {SST2}")
    found = lb.classify(
        SST2,
        encoder=DISTILBERT,
        methods=("full", "lora"),
        seeds="0",
        shuffled=False,
        limit=12_000,
        epochs=2,
        full_learning_rate=5e-5,
        lora_learning_rate=5e-4,
    )
    accuracy = found.accuracy.set_index("method")["accuracy"]
    for method, (least, most) in PUBLISHED.items():
        assert least - 0.04 <= accuracy[method] <= most + 0.04, method
