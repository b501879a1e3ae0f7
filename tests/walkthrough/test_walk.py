"""The numbers of a walk against a plain Hugging Face forward pass, at every step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import AutoModelForCausalLM, ByT5Tokenizer

import lensbench as lb
from lensbench.checkpoints import devices
from lensbench.errors import InputProblems, ModelError
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.report.walk.numbers import Walk
from lensbench.report.walk.steps import steps
from lensbench.walkthrough.heads import read_attention
from lensbench.walkthrough.lengths import with_lengths
from lensbench.walkthrough.result import MOST_TOKENS, walk
from tests.harness.reference import Reference
from tests.harness.tiny import TINY, Case

TEXT = "The capital of Germany is Berlin."
# What a block's attention and MLP hand to the stream: Gemma norms them first.
WRITERS = {
    "llama": ("self_attn", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "qwen3": ("self_attn", "mlp"),
    "gpt2": ("attn", "mlp"),
}


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


NEAR = {"rtol": 2e-4, "atol": 2e-5}


@dataclass(frozen=True)
class Plain:
    """What Hugging Face's own model does with the same tokens."""

    ids: list[int]
    attentions: np.ndarray  # [block, head, query, key]
    states: np.ndarray  # [layer, pos, d_model], the last before the final norm
    writes: list[np.ndarray]  # attention, MLP: [block, pos, d_model]
    logits: np.ndarray  # [d_vocab], behind the last token


def plain(case: Case, ids: Sequence[int]) -> Plain:
    hf = AutoModelForCausalLM.from_pretrained(
        case.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    reference = Reference(hf, case.row)
    seen: list[list[np.ndarray]] = [[], []]

    def keep(into: list[np.ndarray]) -> Any:
        def hook(module: Any, args: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) else out
            into.append(value.detach().reshape(len(ids), -1).numpy())

        return hook

    for block in reference.blocks:
        for name, into in zip(WRITERS.get(case.name, ()), seen, strict=False):
            getattr(block, name).register_forward_hook(keep(into))
    final: list[np.ndarray] = []
    reference.final_norm.register_forward_pre_hook(
        lambda module, args: final.append(args[0].detach().reshape(len(ids), -1).numpy())
    )
    with torch.no_grad():
        out = hf(torch.tensor([list(ids)]), output_attentions=True, output_hidden_states=True)
    states = [state[0].numpy() for state in out.hidden_states[:-1]] + final
    return Plain(
        list(ids),
        np.stack([one[0].numpy() for one in out.attentions]),
        np.stack(states),
        [np.stack(own) for own in seen if own],
        out.logits[0, -1].double().numpy(),
    )


@pytest.fixture(scope="module")
def walked(tiny_case: Callable[[str], Case]) -> Callable[[str], tuple[Case, Walk, Plain]]:
    @cache
    def get(name: str) -> tuple[Case, Walk, Plain]:
        case = tiny_case(name)
        numbers = walk(case.model, TEXT).numbers
        return case, numbers, plain(case, [token.id for token in numbers.tokens])

    return get


@pytest.fixture(params=list(WRITERS))
def case(
    request: pytest.FixtureRequest, walked: Callable[[str], tuple[Case, Walk, Plain]]
) -> tuple[Case, Walk, Plain]:
    return walked(request.param)


Walked = tuple[Case, Walk, Plain]


def test_pieces_are_those_of_the_tokenizer(case: Walked) -> None:
    own, found, _ = case
    read = own.model.tokenizer(TEXT, return_offsets_mapping=True)
    assert [token.id for token in found.tokens] == read.input_ids
    assert [token.spelled for token in found.tokens] == own.model.tokenizer.convert_ids_to_tokens(
        read.input_ids
    )
    told = [(t.start, t.end) for t in found.tokens if t.start is not None]
    assert told == [place for place in read.offset_mapping if place != (0, 0)]
    assert "".join(TEXT[start:end] for start, end in told) == TEXT
    assert "".join(t.text for t in found.tokens if t.start is not None).strip() == TEXT


def test_bytes_that_are_no_character_alone_are_named(gpt2: Case) -> None:
    found = walk(gpt2.model, "e日").numbers
    assert [token.text for token in found.tokens] == ["e", "<0xE6>", "<0x97>", "<0xA5>"]
    assert [(token.start, token.end) for token in found.tokens] == [(0, 1), *[(1, 2)] * 3]
    assert not any("\ufffd" in word for word in found.vocabulary)


def test_pieces_of_a_tokenizer_without_offsets_have_their_places(llama: Case) -> None:
    """ByT5's tokens are the bytes of the text in UTF-8."""
    model = load_model(llama.fresh_hf(), tokenizer=ByT5Tokenizer())
    text = "Zürich"
    tokens = walk(model, text).numbers.tokens
    told = [text[token.start : token.end] for token in tokens if token.start is not None]
    assert [token.id - 3 for token in tokens] == list(text.encode())
    assert told == ["Z", "ü", "ü", "r", "i", "c", "h"]


def test_the_stream_is_hugging_faces(case: Walked) -> None:
    _, found, other = case
    np.testing.assert_allclose(found.embedding.vectors, other.states[0], **NEAR)
    np.testing.assert_allclose(found.state_norms, np.linalg.norm(other.states, axis=-1), **NEAR)
    for own, theirs in zip((found.attention_writes, found.mlp_writes), other.writes, strict=True):
        np.testing.assert_allclose(own.norms, np.linalg.norm(theirs, axis=-1), **NEAR)
    summed = other.states[:-1] + sum(other.writes)
    np.testing.assert_allclose(summed, other.states[1:], rtol=1e-3, atol=1e-4)  # as the page says
    assert found.sum_errors.shape == found.mlp_writes.norms.shape
    assert found.sum_errors.max() < 1e-6


def test_weights_are_hugging_faces(case: Walked) -> None:
    _, found, other = case
    np.testing.assert_allclose(squares(found), other.attentions, rtol=1e-4, atol=1e-6)


def squares(found: Walk) -> np.ndarray:
    """Weights of every head as the page makes them, [block, head, query, key]."""
    n = len(found.tokens)
    scores = np.full((*found.attention.scores.shape[:2], n, n), -np.inf)
    scores[:, :, *np.tril_indices(n)] = found.attention.scores
    return softmax(scores, axis=-1) * found.attention.sums[..., None]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_scores_are_products_of_turned_queries_and_keys(
    walked: Callable[[str], Walked], name: str
) -> None:
    """From the weights of the first block, turned by the page's angles: what its formulas say."""
    own, found, other = walked(name)
    x, block = torch.tensor(other.states[0]), Reference(own.hf, own.row).blocks[0]
    with torch.no_grad():
        normed = getattr(block, own.row.ln1)(x)
        if name == "gpt2":
            q, k, _ = block.attn.c_attn(normed).numpy().reshape(len(x), 3, 4, 8).swapaxes(0, 1)
        else:
            q, k = (
                getattr(block.self_attn, part)(normed).numpy().reshape(len(x), -1, 8)
                for part in ("q_proj", "k_proj")
            )
            k = k.repeat(2, axis=1)
            angles = found.positions.rotations[0].angles[:, None]
            q, k = ((one[..., :4] + 1j * one[..., 4:]) * np.exp(1j * angles) for one in (q, k))
    told = (found.attention.query_lengths, found.attention.key_lengths)
    for lengths, own_vectors in zip(told, (q, k), strict=True):
        assert lengths is not None
        np.testing.assert_allclose(lengths[0].T, np.linalg.norm(own_vectors, axis=-1), **NEAR)
    assert found.attention.scale is not None
    scores = found.attention.scale * np.einsum("qhd,khd->hqk", q, np.conj(k)).real
    if found.attention.cap is not None:
        scores = found.attention.cap * np.tanh(scores / found.attention.cap)
    expected = scores[:, *np.tril_indices(len(x))]
    seen = np.isfinite(found.attention.scores[0])  # not beyond a window
    assert seen.mean() > 0.4
    np.testing.assert_allclose(found.attention.scores[0][seen], expected[seen], **NEAR)


def test_lengths_that_do_not_give_the_scores_are_left_out(
    gpt2: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a family turns its queries behind what can be seen of them (GPT-NeoX)."""
    ids = gpt2.model.tokenizer(TEXT).input_ids
    attention, _ = read_attention(gpt2.model, ids)
    assert with_lengths(gpt2.model, ids, attention).key_lengths is not None
    other = replace(attention, scores=attention.scores + 0.5 * np.abs(attention.scores).max())
    assert with_lengths(gpt2.model, ids, other).key_lengths is None
    assert with_lengths(gpt2.model, ids, replace(attention, scale=None)).query_lengths is None


def test_logits_and_lens_are_hugging_faces(case: Walked) -> None:
    own, found, other = case
    np.testing.assert_allclose(found.logits, other.logits, rtol=1e-4, atol=1e-4)
    reference = Reference(own.hf, own.row)
    for layer, state in enumerate(other.states):
        logits = reference.logits(torch.tensor(state), "final", ("resid_post", layer))
        probs = softmax(logits, axis=-1)
        read = np.take_along_axis(probs, found.lens.top_ids[layer], axis=-1)
        np.testing.assert_allclose(found.lens.top_probs[layer], read, rtol=1e-3, atol=1e-6)
        best = -np.sort(-probs, axis=-1)[:, : read.shape[1]]
        np.testing.assert_allclose(read, best, rtol=1e-3, atol=1e-6)


def test_embeddings_are_rows_and_their_neighbours_the_nearest(case: Walked) -> None:
    own, found, other = case
    table = own.hf.get_input_embeddings().weight.detach().double().numpy()
    assert found.embedding.rest < 1e-5
    assert found.embedding.scale == pytest.approx(32**0.5 if own.name == "gemma2" else 1, rel=1e-5)
    np.testing.assert_allclose(
        found.embedding.row_norms, np.linalg.norm(table[other.ids], axis=-1), **NEAR
    )
    units = table / np.linalg.norm(table, axis=-1, keepdims=True)
    cosines = units[other.ids] @ units.T
    cosines[range(len(other.ids)), other.ids] = -2
    k = found.embedding.neighbour_ids.shape[1]
    np.testing.assert_allclose(
        found.embedding.neighbour_cosines, -np.sort(-cosines, axis=-1)[:, :k], **NEAR
    )
    told = np.take_along_axis(cosines, found.embedding.neighbour_ids, axis=-1)
    np.testing.assert_allclose(told, found.embedding.neighbour_cosines, **NEAR)


def test_a_table_of_positions_is_said_in_place_of_angles(
    walked: Callable[[str], Walked],
) -> None:
    own, found, _ = walked("gpt2")
    assert found.positions.kind == "learned"
    assert not found.positions.rotations
    added = own.hf.transformer.wpe.weight[: len(found.tokens)].norm(dim=-1)
    np.testing.assert_allclose(found.embedding.position_norms, added.detach().numpy(), **NEAR)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_angles_are_those_of_the_papers_formula(walked: Callable[[str], Walked], name: str) -> None:
    """Su et al. 2021 (arXiv 2104.09864), equation 15: base ** (-2 i / d), times the position."""
    _, found, _ = walked(name)
    assert found.positions.kind == "rotary"
    assert set(found.positions.of_block) == {0}
    (turn,) = found.positions.rotations
    n, pairs = turn.angles.shape
    assert (n, pairs) == (len(found.tokens), 4)
    per_token = 10_000.0 ** (-np.arange(pairs) / pairs)
    np.testing.assert_allclose(turn.per_token, per_token, rtol=1e-5)
    expected = np.arange(n)[:, None] * per_token
    np.testing.assert_allclose(np.exp(1j * turn.angles), np.exp(1j * expected), atol=1e-5)
    assert not turn.adjacent
    assert turn.length == pytest.approx(1)


def by_hand(own: Case, other: Plain, parts: np.ndarray, position: int) -> np.ndarray:
    """Effects [part, token] in float64: the norm's divisor held, its weight in the head."""
    norm = Reference(own.hf, own.row).final_norm
    weight = norm.weight.detach().double().numpy()
    last = other.states[-1, position].astype(float)
    if own.row.norm == "LN":
        parts, last = (x - x.mean(-1, keepdims=True) for x in (parts, last))
    weight = 1 + weight if own.name == "gemma2" else weight
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
    divisor = np.sqrt((last**2).mean() + eps)
    head = own.hf.get_output_embeddings().weight.detach().double().numpy()
    return (parts * weight / divisor) @ head.T


def test_the_path_back_is_the_sum_by_hand(case: Walked) -> None:
    own, found, other = case
    writes = np.stack(other.writes, axis=1)[:, :, -1].reshape(-1, other.states.shape[-1])
    parts = np.concatenate([other.states[0, -1:], writes]).astype(float)
    effects, path = by_hand(own, other, parts, -1), found.path
    assert sorted(path.ids) == list(range(own.model.d_vocab))  # of a small vocabulary, all
    scale = np.abs(effects).max()
    np.testing.assert_allclose(
        path.effects[:, :-1], effects[:, path.ids].T, rtol=1e-3, atol=1e-5 * scale
    )
    assert np.abs(path.effects[:, -1]).max() < 1e-4 * scale  # rounding
    z = path.effects.astype(float).sum(1) + path.constants
    cap = found.architecture.soft_cap
    logits = z if cap is None else cap * np.tanh(z / cap)
    np.testing.assert_allclose(logits, other.logits[path.ids], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(path.mean_effects, path.effects.mean(0), rtol=1e-3, atol=1e-4)
    assert path.mean_constant == pytest.approx(path.constants.mean(), abs=1e-5)


def test_a_write_promotes_what_it_raises_most(case: Walked) -> None:
    own, found, other = case
    for told, writes in zip((found.attention_writes, found.mlp_writes), other.writes, strict=True):
        for block, position in ((0, 0), (1, 3), (2, len(other.ids) - 1)):
            (effects,) = by_hand(own, other, writes[block, [position]].astype(float), position)
            above, k = effects - effects.mean(), told.top_ids.shape[-1]
            ids, values = told.top_ids[block, position], told.top_effects[block, position]
            near = {"rtol": 1e-3, "atol": 1e-4 * np.abs(above).max()}
            np.testing.assert_allclose(values, -np.sort(-above)[:k], **near)
            np.testing.assert_allclose(above[ids], values, **near)


@pytest.mark.parametrize(
    ("name", "key", "formula"),
    [
        ("llama", "embedding", "x0 = WE[t]"),
        ("gemma2", "embedding", "x0 = 5.6569 · WE[t]"),
        ("gpt2", "embedding", "x0 = WE[t] + Wpos[p]"),
        ("gemma2", "attention", "score = q · k / √8, capped at ±50"),
        ("llama", "writes", "a = attention(norm(x)), m = MLP(norm(x + a))"),
        ("gemma2", "writes", "a = norm(attention(norm(x))), m = norm(MLP(norm(x + a)))"),
        ("gpt2", "lens", "softmax(WU · LNnorm(xlayer))"),
        ("gemma2", "lens", "softmax(30 · tanh(WU · RMSnorm(xlayer) / 30))"),
        ("gemma2", "path", "zt = Σparts part · ut / ρ + biases, then 30 · tanh(z / 30)"),
        slow("granite", "embedding", "x0 = 3 · WE[t]"),
        slow("granite", "writes", "a = 0.5 · attention(norm(x)), m = 0.5 · MLP(norm(x + a))"),
        slow("granite", "attention", "score = 0.2 · q · k"),
        slow("cohere", "logits", "z = 0.25 · WU · LNnorm(xL)"),
        slow("cohere", "writes", "m = MLP(norm(x))"),
        slow("cohere", "positions", "(q2i, q2i + 1)"),
        slow("phi", "logits", "z = WU · LNnorm(xL) + b"),
    ],
)
def test_formulas_are_those_of_the_family(
    walked: Callable[[str], Walked], name: str, key: str, formula: str
) -> None:
    found = {step.key: step for step in steps(walked(name)[1])}
    assert formula in re.sub("<[^>]+>", "", str(found[key].formula))


@pytest.mark.parametrize("name", ["llama3", "gemma3_text", "phi", "cohere"])
def test_angles_are_those_of_hugging_faces_own_module(
    name: str, tiny_case: Callable[[str], Case]
) -> None:
    """Llama 3's scaling, Gemma 3's two bases, a part of each head, neighbouring pairs."""
    case = tiny_case(name)
    found = walk(case.model, TEXT).numbers.positions
    rope = next(m for m in case.hf.modules() if type(m).__name__.endswith("RotaryEmbedding"))
    kinds = getattr(case.hf.config, "layer_types", None) if name == "gemma3_text" else None
    for block, number in enumerate(found.of_block):
        assert number is not None
        turn = found.rotations[number]
        inverse = getattr(rope, f"{kinds[block]}_inv_freq" if kinds else "inv_freq")
        expected = np.arange(len(turn.angles))[:, None] * inverse.double().numpy()
        np.testing.assert_allclose(np.exp(1j * turn.angles), np.exp(1j * expected), atol=1e-5)
        assert turn.adjacent == (name == "cohere")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name not in WRITERS])
def test_every_other_family_is_walked(walked: Callable[[str], Walked], name: str) -> None:
    """Parallel blocks, partial and scaled rotation, sliding windows, a scaled stream and head."""
    _, found, other = walked(name)
    np.testing.assert_allclose(found.state_norms, np.linalg.norm(other.states, axis=-1), **NEAR)
    np.testing.assert_allclose(squares(found), other.attentions, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits, other.logits, rtol=1e-4, atol=1e-4)
    z = found.path.effects.astype(float).sum(1) + found.path.constants
    np.testing.assert_allclose(z, other.logits[found.path.ids], rtol=1e-4, atol=1e-3)
    assert found.positions.kind == "rotary"


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_on_a_page_that_can_be_sent(smollm: LensModel, smollm_folder: Path) -> None:
    result = walk(smollm, "The cat sat on the mat.")
    assert len(result.html()) < 3_000_000
    found = result.numbers
    hf = AutoModelForCausalLM.from_pretrained(
        smollm_folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = hf(torch.tensor([[t.id for t in found.tokens]]), output_attentions=True)
    np.testing.assert_allclose(found.logits, out.logits[0, -1].numpy(), atol=2e-4)
    weights = np.stack([one[0].numpy() for one in out.attentions])
    np.testing.assert_allclose(squares(found), weights, atol=1e-5)
    z = found.path.effects.astype(float).sum(1) + found.path.constants
    np.testing.assert_allclose(z, out.logits[0, -1].numpy()[found.path.ids], atol=2e-4)
    assert len(found.path.ids) > 4000  # of 49,152
    assert softmax(found.logits)[found.path.ids].sum() > 0.99


def test_a_text_of_one_token(gpt2: Case) -> None:
    found = walk(gpt2.model, "e").numbers
    assert len(found.tokens) == 1
    np.testing.assert_allclose(squares(found), 1)


def test_one_call_gives_the_page_and_reads_well(gpt2: Case, tmp_path: Path) -> None:
    result = walk(gpt2.model, TEXT)
    where = result.save(tmp_path / "new" / "walk.html")
    assert where.read_bytes() == result.html() == walk(gpt2.model, TEXT).html()
    assert "WalkResult(gpt2: " in repr(result)
    with pytest.raises(InputProblems, match=r"there already. Give another name"):
        result.save(where)
    result.save(where, force=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("a\0b", "NUL"),
        ("half \ud800 a character", "lone surrogate"),
        ("The river Rhine. " * 500, f"room for {MOST_TOKENS}. Give a sentence"),
        (7, "int is no text"),
    ],
)
def test_what_cannot_be_walked_is_said(gpt2: Case, text: Any, said: str) -> None:
    with pytest.raises(InputProblems) as error:
        walk(gpt2.model, text)
    (problem,) = error.value.problems
    assert problem.where == "text"
    assert said in str(problem)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean smollm2-135m"):
        walk("smolm2-135m", TEXT)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_no_float64_is_needed(
    name: str, tiny_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apple's accelerator has none: the page's numbers are those of float32 sums there."""
    model = tiny_case(name).model
    wanted = walk(model, TEXT).numbers

    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise TypeError("this device has no float64")

    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    found = walk(model, TEXT).numbers
    assert np.allclose(found.path.effects, wanted.path.effects, atol=1e-5)
    assert np.allclose(found.path.mean_effects, wanted.path.mean_effects, atol=1e-5)
    assert found.embedding.scale == pytest.approx(wanted.embedding.scale, rel=1e-5)


@pytest.mark.parametrize("given", ["", " \n"])
@pytest.mark.parametrize("read", [lb.attention, lb.sample, lb.walk])
def test_nothing_is_loaded_for_an_empty_text(
    read: Any, given: str, llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every function that takes a model's name and a text."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    for module in ("models.load.open_weights", "quantized.loading.load.open_weights"):
        monkeypatch.setattr(f"lensbench.{module}", loaded)
    with pytest.raises(InputProblems, match="empty"):
        read(str(llama.folder), given)
