"""Which modules an adapter trains."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.config.check import check_config
from lensbench.checkpoints.open import empty_model
from lensbench.errors import InputProblems
from lensbench.quantized.adapters.lora import adapt, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.spec import ranges
from tests.harness.files import CONFIGS
from tests.harness.tiny import Case


def test_tinyllama_trains_the_published_share() -> None:
    """r = 8 on q, k, v, o of 22 layers: per layer 8 * (4 * 2048 + 2 * (2048 + 256) + 2 * 2048)."""
    from transformers import AutoConfig

    config = check_config(CONFIGS / "tinyllama.json")
    model = empty_model(AutoConfig.for_model(**config))
    matched = match(model, Lora())
    trainable, total = adapt(model, matched, Lora(), "tinyllama").get_nb_trainable_parameters()
    by_hand = 22 * 8 * (2 * (2048 + 2048) + 2 * (2048 + 256))
    assert trainable == by_hand == 2_252_800
    assert total == 1_100_048_384 + 2_252_800
    assert f"{trainable / total:.2%}" == "0.20%"
    assert len(matched.modules) == 88


@pytest.mark.parametrize("targets", ["q,k,v,o", "q,k,v,o,up,down"])
def test_the_modules_that_are_named_are_those_that_learn(family: Case, targets: str) -> None:
    model = family.fresh_hf()
    matched = match(model, Lora(blocks="0,2", targets=targets))
    adapted = adapt(model, matched, Lora(), "tiny")
    learning = {n.partition(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    assert learning == {f"base_model.model.{module}" for module in matched.modules}
    assert {int(module.split(".")[2]) for module in matched.modules} == {0, 2}
    n_targets = len(matched.targets)
    assert len(matched.modules) == 2 * n_targets


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blocks": "1-9"}, "the model has no block 9. Give 0 to 2"),
        ({"blocks": "0-3"}, "the model has no block 3. Give 0 to 2"),
        ({"blocks": "2-1"}, "'2-1' is no block or range"),
        ({"blocks": "x"}, "'x' is no block or range"),
        ({"blocks": ""}, "'' is no block or range"),
        ({"blocks": "auto"}, "no file of chosen layers is named"),
        ({"blocks": "auto:nowhere.json"}, "no layers can be read from it"),
        ({"targets": "q,nonsense"}, "no module is called 'nonsense'. A block has self_attn.q_proj"),
        ({"targets": ""}, "it is empty"),
        ({"rank": 0}, "rank: it is 0"),
        ({"dropout": 1.0}, "dropout: it is 1.0"),
    ],
)
def test_settings_that_match_nothing_are_refused(
    llama: Case, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputProblems, match="1 problem") as caught:
        match(llama.hf, Lora(**settings))
    assert said in str(caught.value)


def test_a_part_of_a_fused_matrix_is_refused(gpt2: Case) -> None:
    with pytest.raises(InputProblems, match=r"attn.c_attn holds q,k,v in one matrix. Give q,k,v"):
        match(gpt2.hf, Lora(targets="q,o"))
    assert match(gpt2.hf, Lora(targets="attn.c_attn")).targets == ("attn.c_attn",)


def test_gpt2s_turned_weights_are_known_and_not_guessed(gpt2: Case) -> None:
    model = gpt2.fresh_hf()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's, where it has to guess
        adapt(model, match(model, Lora()), Lora(), "x")


def test_layers_can_come_from_a_file(llama: Case, tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text('{"layers": [2, 0], "why": "a study"}')
    assert match(llama.hf, Lora(blocks=f"auto:{path}")).layers == (0, 2)
    for broken in ('{"layers": []}', '{"layers": ["1"]}', "[1]", "no"):
        path.write_text(broken)
        with pytest.raises(InputProblems, match="layers"):
            match(llama.hf, Lora(blocks=f"auto:{path}"))


def test_what_is_trained_is_said_in_both_numberings(llama: Case) -> None:
    lines = match(llama.hf, Lora(blocks="1-2", targets="q")).lines()
    assert lines[0].startswith("2 modules in blocks 1-2 of 0-2 (their outputs are layers 2-3")
    assert lines[1] == "model.layers.{1-2}.self_attn.q_proj"
    assert ranges([0, 3, 15, 16, 17]) == "0,3,15-17"
    assert ranges([3, 15, 16, 17, 20], ", ") == "3, 15-17, 20"
    assert ranges([]) == ""
