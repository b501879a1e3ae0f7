"""Heads of whole models: Hugging Face's own attention of every family, and vectors by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench.attention import gate, scores
from lensbench.attention.facts import KINDS, Facts, TokenKinds, looking_back
from lensbench.attention.patterns import Source
from lensbench.attention.scores import head_scores
from lensbench.checkpoints.config.shape import attention_windows
from lensbench.errors import GateError, InputProblems, ModelError
from lensbench.lens.gate import require
from lensbench.models.load import load_model
from lensbench.records.schema.attention import HEADS
from tests.harness.causal_lms import save_tiny
from tests.harness.tiny import Case

PLAIN = {"conditions": "text", "weightings": "plain"}


def eager(case: Case, ids: list[int]) -> Any:
    """Hugging Face's attentions, [head, query, key] a block."""
    hf = case.fresh_hf()
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        return [one[0] for one in hf(torch.tensor([ids]), output_attentions=True).attentions]


def test_scores_are_those_of_hugging_faces_own_attention(family: Case) -> None:
    """Two prompts of other lengths in one padded batch; each against its own unpadded pass."""
    prompts = [ids for ids in family.token_ids if len(ids) > 2][:2]
    found = lensbench.attention(family.model, prompts, **PLAIN).to_pandas()
    windows = attention_windows(family.hf.config)
    for number, ids in enumerate(prompts, start=1):
        for block, pattern in enumerate(eager(family, ids)):
            allowed = looking_back(len(ids), windows[block])
            assert bool((pattern[:, ~allowed] == 0).all())
            facts = Facts(torch.tensor(ids), TokenKinds(family.model.tokenizer)(ids), allowed)
            rows = found[(found["prompt_id"] == f"p{number}") & (found["block"] == block)]
            assert rows["head"].tolist() == list(range(len(pattern)))
            for name, expected in head_scores(pattern.float(), facts).items():
                own = rows[name].to_numpy()
                assert own == pytest.approx(expected.numpy(), abs=1e-5, nan_ok=True), (name, block)


def moved_by_hand(case: Case, ids: list[int]) -> list[np.ndarray]:
    """||a v W_O|| of every weight, from the vectors themselves; rows sum to 1."""
    hf, values = case.fresh_hf(), dict[int, torch.Tensor]()
    blocks = hf.model.layers if case.name == "llama" else hf.transformer.h
    n_heads = hf.config.num_attention_heads

    def keep(block: int) -> Any:
        return lambda module, inputs, output: values.update({block: output[0]})

    for i, block in enumerate(blocks):
        own = block.self_attn.v_proj if case.name == "llama" else block.attn.c_attn
        own.register_forward_hook(keep(i))
    with torch.no_grad():
        hf(torch.tensor([ids]))
    found = []
    for i, (block, pattern) in enumerate(zip(blocks, eager(case, ids), strict=True)):
        if case.name == "llama":
            weight = block.self_attn.o_proj.weight.T  # [head * d_head, d_model]
            value = values[i].unflatten(-1, (hf.config.num_key_value_heads, -1))
            value = value[:, [h * value.shape[1] // n_heads for h in range(n_heads)]]
        else:
            weight = block.attn.c_proj.weight
            value = values[i].chunk(3, -1)[2].unflatten(-1, (n_heads, -1))
        each = torch.einsum("khd,hdm->hkm", value, weight.unflatten(0, (n_heads, -1)))
        norms = (pattern[..., None] * each[:, None]).norm(dim=-1)  # [head, query, key, d_model]
        found.append((norms / norms.sum(-1, keepdim=True)).detach().numpy())
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_heads_move_is_the_length_of_the_vectors_themselves(name: str, tiny_case: Any) -> None:
    """Of grouped queries in Llama, and of GPT-2's joint matrix."""
    case = tiny_case(name)
    ids = case.token_ids[2]
    found = lensbench.attention(case.model, ids, conditions="text", keep="p1")
    kinds = TokenKinds(case.model.tokenizer)(ids)
    facts = Facts(torch.tensor(ids), kinds, looking_back(len(ids)))
    frame = found.to_pandas()
    for block, expected in enumerate(moved_by_hand(case, ids)):
        for head, own in enumerate(expected):
            kept = found.pattern("p1", block, head, "moved")
            assert kept == pytest.approx(own, abs=1e-6)
        rows = frame[(frame["weighting"] == "moved") & (frame["block"] == block)]
        scored = head_scores(torch.tensor(expected), facts)
        assert rows["first_token"].to_numpy() == pytest.approx(scored["first_token"], abs=1e-5)
        assert rows["entropy_share"].to_numpy() == pytest.approx(scored["entropy_share"], abs=1e-5)


def test_kept_patterns_are_hugging_faces(llama: Case) -> None:
    ids = llama.token_ids[0]
    found = lensbench.attention(llama.model, [ids, ids[:4]], keep="p1", **PLAIN)
    assert set(found.patterns["prompt_id"].to_pylist()) == {"p1"}
    for block, expected in enumerate(eager(llama, ids)):
        for head, own in enumerate(expected):
            assert found.pattern("p1", block, head) == pytest.approx(own.numpy(), abs=1e-6)
    with pytest.raises(InputProblems, match="no pattern of prompt 'p2'"):
        found.pattern("p2", 0, 0)
    by_hand = np.eye(len(ids))
    for expected, rolled in zip(eager(llama, ids), found.rollout(), strict=True):
        by_hand = (expected.numpy().mean(0) + np.eye(len(ids))) / 2 @ by_hand
        assert rolled == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(InputProblems, match="no pattern of prompt 'p2'"):
        found.rollout("p2")
    assert found.plot_pattern(0, 1).data[0].z.shape == (len(ids), len(ids))
    assert found.plot("current_token").data[0].z.shape == (3, 4)
    with pytest.raises(InputProblems, match="there is no 'magic'"):
        found.plot("magic")


def test_random_tokens_repeat_and_no_special_one_is_among_them(llama: Case) -> None:
    from lensbench.attention.conditions import REPEATS, repeated
    from lensbench.attention.settings import AttentionSettings

    settings = AttentionSettings(n_repeated=3, repeat_tokens=7)
    texts = repeated(llama.model, [], settings)
    assert len({text.token_ids for text in texts}) == 3
    for text in texts:
        start, rest = text.token_ids[0], text.token_ids[1:]
        assert start == llama.model.tokenizer.bos_token_id
        assert rest == rest[:7] * REPEATS
        assert not {*rest} & {*llama.model.tokenizer.all_special_ids}
    assert texts == repeated(llama.model, [], settings)
    found = lensbench.attention(llama.model, llama.token_ids[0], repeat_tokens=7, n_repeated=3)
    frame = found.to_pandas()
    own = frame[frame["condition"] == "repeated"]
    assert sorted(own["prompt_id"].unique()) == ["repeated-1", "repeated-2", "repeated-3"]
    assert own["induction"].between(0, 1).all()
    assert found.table.schema.equals(HEADS.schema)


# --- the gate -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gate_is_exact_of_every_family(family: Case) -> None:
    prompts = [ids for ids in family.token_ids if len(ids) > 2]
    identities = gate.check_heads(Source(family.model), prompts, moved=True)
    assert [one.passed for one in identities] in ([True] * 3, [True, None, True]), identities
    require(identities)


def test_the_gate_sees_heads_in_the_wrong_groups(llama: Case, monkeypatch: Any) -> None:
    """Values of grouped queries dealt out in turn, where each stands for two heads in a row."""
    monkeypatch.setattr(gate, "per_head", lambda values, n, *_: values.repeat(1, 1, 2, 1))
    identities = gate.check_heads(Source(llama.model), llama.token_ids[:1], moved=True)
    with pytest.raises(GateError, match="weights times values"):
        require(identities)


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]], 0),
        ([[1.0, 0, 0], [0.5, 0.4, 0], [0.25, 0.25, 0.5]], 0.1),
        ([[0.7, 0.3, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]], 0.3),
        ([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]], 1),  # the window is smaller than is said
    ],
)
def test_the_error_of_rows(pattern: list[list[float]], error: float) -> None:
    facts = Facts(torch.arange(3), {}, looking_back(3))
    assert gate.row_error(torch.tensor([pattern]), facts) == pytest.approx(error, abs=1e-6)
    if error == 0.1:  # a sink may take a share of a row
        assert gate.row_error(torch.tensor([pattern]), facts, sinks=True) == 0


def test_a_window_that_the_config_does_not_tell_stops_the_run(tiny_case: Any) -> None:
    case = tiny_case("mistral")
    source = Source(case.model)
    source.__dict__["windows"] = [None] * 3
    longest = max(case.token_ids, key=len)
    with pytest.raises(GateError, match="beyond their window"):
        require(gate.check_heads(source, [longest], moved=False))


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("mamba", r"blocks 0-2 \(linear_attention\) cannot be read"),
        ("lfm2_moe", r"blocks 0, 2 \(conv\) cannot be read"),
    ],
)
def test_attention_without_patterns_is_refused_by_its_blocks(
    model_type: str, said: str, tmp_path: Path
) -> None:
    model = load_model(save_tiny(model_type, tmp_path), device="cpu")
    with pytest.raises(ModelError, match=said):
        lensbench.attention(model, "The capital of Germany is")


def test_prompts_that_are_too_short_or_too_long_are_problems(llama: Case) -> None:
    found = lensbench.attention(llama.model, [[1, 5, 6], [1], [1, 5], [5] * 99], **PLAIN)
    said = "\n".join(map(str, found.problems))
    assert [problem.prompt_id for problem in found.problems] == ["p4", "p2", "p3"]
    assert "it is 1 token(s)" in said
    assert "context holds 64" in said
    assert set(found.to_pandas()["prompt_id"]) == {"p1"}
    with pytest.raises(InputProblems, match="Give 3 tokens or more"):
        lensbench.attention(llama.model, [[1]])
    over = lensbench.attention(llama.model, [1, 5, 6])  # 101 random tokens
    assert "--repeat-tokens, 15 at most" in str(over.problems[0])


def test_a_prompt_that_gives_nan_is_a_problem(overflowing: Path) -> None:
    model = load_model(overflowing, device="cpu")
    (rome,) = model.tokenizer(" Rome").input_ids
    prompts = [[5, 6, rome, 7], [5, 6, 7], [5, 6, 7, 8, 9]]
    found = lensbench.attention(model, prompts, keep=["p1", "p2"], **PLAIN)
    assert [problem.prompt_id for problem in found.problems] == ["p1"]
    assert set(found.to_pandas()["prompt_id"]) == {"p2", "p3"}
    assert set(found.patterns["prompt_id"].to_pylist()) == {"p2"}
    # Of the gate's own prompts too: the shortest and the longest.
    prompts = [[5, rome, 7], [5, 6, 7, 8], [5, 6, 7, 8, rome]]
    found = lensbench.attention(model, prompts, **PLAIN)
    assert [problem.prompt_id for problem in found.problems] == ["p1", "p3"]
    assert set(found.to_pandas()["prompt_id"]) == {"p2"}
    with pytest.raises(GateError, match="NaN or Inf for every prompt"):
        lensbench.attention(model, prompts[::2], **PLAIN)


def test_unknown_settings_are_refused_by_name(llama: Case) -> None:
    for key, value in (("conditions", "dream"), ("weightings", "heavy"), ("keep", "p7")):
        with pytest.raises(InputProblems, match=value):
            lensbench.attention(llama.model, [1, 5, 6], **{key: value})


def test_only_one_block_of_patterns_is_there_at_a_time(llama: Case) -> None:
    """Each pattern is gone when the next one comes."""
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def see(seen: Any) -> None:
        nonlocal most
        alive.append(weakref.ref(seen.pattern))
        most = max(most, sum(one() is not None for one in alive))

    Source(llama.model).watch([llama.token_ids[0]], see)
    assert len(alive) == 3
    assert most <= 2


def test_a_score_of_ones_own_is_made_for_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a score: a function and a line, and what its column means in the schema."""
    monkeypatch.setitem(scores.OF_ROWS, "largest", lambda pattern, facts: pattern.amax(-1))
    kinds = {kind: torch.zeros(4).bool() for kind in KINDS}
    found = head_scores(torch.eye(4)[None], Facts(torch.arange(4), kinds, looking_back(4)))
    assert found["largest"].tolist() == [1]
