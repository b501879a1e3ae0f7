"""Circuits: every product against the large matrices written out, and against TransformerLens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench.attention.circuits.composition import (
    MODES,
    compositions,
    interval,
    random_ratios,
)
from lensbench.attention.circuits.copying import copying, eigenvalue_ratio, own_rank
from lensbench.attention.circuits.table import circuits_table
from lensbench.attention.circuits.weights import (
    HeadWeights,
    directions,
    head_weights,
    norm_parts,
)
from lensbench.errors import ModelError
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from tests.harness.planted import INDUCTION, PREVIOUS, planted
from tests.harness.tiny import TINY, Case, save


def by_hand(case: Case) -> list[dict[str, torch.Tensor]]:
    """Hugging Face's own matrices of each block, by head [d_model, d_head], no norm folded."""
    hf = case.hf
    config, found = hf.config, []
    n_heads = config.num_attention_heads
    for block in getattr(getattr(hf, case.row.backbone), case.row.blocks):
        if case.row.model_type == "gpt2":
            q, k, v = block.attn.c_attn.weight.detach().split(config.n_embd, dim=1)
            o = block.attn.c_proj.weight.detach()
        else:
            own = block.self_attn
            q, k, v = (getattr(own, f"{n}_proj").weight.detach().T for n in "qkv")
            o = own.o_proj.weight.detach().T
        d_head = q.shape[1] // n_heads
        group = n_heads // (k.shape[1] // d_head)
        found.append(
            {
                "q": torch.stack([q[:, h * d_head :][:, :d_head] for h in range(n_heads)]),
                "k": torch.stack([k[:, h // group * d_head :][:, :d_head] for h in range(n_heads)]),
                "v": torch.stack([v[:, h // group * d_head :][:, :d_head] for h in range(n_heads)]),
                "o": torch.stack([o[h * d_head :][:d_head] for h in range(n_heads)]),
            }
        )
    return found


@cache
def with_norms_of_ones(name: str, folder: Path) -> Case:
    """The family's checkpoint with every norm's weight 1 and bias 0: there is nothing to fold."""
    case = Case(name, TINY[name], save(TINY[name], folder))
    hf = case.fresh_hf()
    with torch.no_grad():
        for parameter, weight in hf.named_parameters():
            if weight.ndim == 1 and ("norm" in parameter or "ln_" in parameter):
                weight.fill_(1.0 if parameter.endswith("weight") else 0.0)
    hf.save_pretrained(folder, safe_serialization=True)
    return Case(name, TINY[name], folder)


@pytest.fixture(params=["llama", "gpt2"])  # grouped queries with RMSNorm; joint q/k/v, LayerNorm
def case(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def norm_of(case: Case, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A norm's linear part as a matrix for row vectors, without its length; and its weight."""
    weight, d = module.weight.detach(), module.weight.shape[0]
    centre = torch.eye(d) - (1 / d if case.row.norm == "LN" else 0.0)
    return centre @ torch.diag(weight), weight


def test_heads_are_the_models_own_with_the_norm_folded(case: Case) -> None:
    blocks = getattr(getattr(case.hf, case.row.backbone), case.row.blocks)
    for heads, own, block in zip(head_weights(case.model), by_hand(case), blocks, strict=True):
        before, _ = norm_of(case, getattr(block, case.row.ln1))
        for name in ("q", "k", "v"):
            torch.testing.assert_close(getattr(heads, name), before @ own[name])
        torch.testing.assert_close(heads.o, own["o"])


def test_a_norm_is_taken_apart_whatever_its_family(family: Case) -> None:
    """Put together again it is the norm; Gemma's weight is one more than it says."""
    model = family.model
    parts = norm_parts(model.readout.norm, model.d_model, model.device)
    assert parts.centres == (family.row.norm == "LN")
    x = torch.randn(4, model.d_model)
    centred = parts.centred(x)
    length = centred.square().mean(-1, keepdim=True).sqrt()
    again = centred / length * parts.weight + parts.bias
    torch.testing.assert_close(again, model.readout.norm(x), rtol=1e-3, atol=1e-3)


def test_what_is_no_such_norm_is_refused(llama: Case) -> None:
    with pytest.raises(ModelError, match="no RMSNorm or LayerNorm"):
        norm_parts(torch.tanh, llama.model.d_model, llama.model.device)


def test_logits_grow_along_their_directions(family: Case) -> None:
    """The readout of a state, from its directions, length and biases."""
    model = family.model
    x = torch.randn(3, model.d_model)
    parts = norm_parts(model.readout.norm, model.d_model, model.device)
    centred = parts.centred(x)
    along = (x @ directions(model)) / centred.square().mean(-1, keepdim=True).sqrt()
    readout = replace(model.readout, soft_cap=None, logit_scale=1.0, b_U=None)
    rest = parts.bias @ readout.W_U
    torch.testing.assert_close(along + rest, readout(x), rtol=1e-3, atol=1e-3)


def test_copying_is_that_of_the_whole_circuit(case: Case) -> None:
    """[vocabulary, vocabulary] in full: eigenvalues, and every token's rank among all others."""
    hf, model = case.hf, case.model
    d, blocks = model.d_model, getattr(getattr(hf, case.row.backbone), case.row.blocks)
    final = getattr(getattr(hf, case.row.backbone), case.row.final_norm)
    after, _ = norm_of(case, final)
    embed, head = hf.get_input_embeddings().weight.detach(), hf.get_output_embeddings()
    if case.row.norm == "LN":
        embed = embed - embed.mean(-1, keepdim=True)
    embed = embed / embed.norm(dim=-1, keepdim=True) * d**0.5
    found = list(copying(model, n_tokens=model.d_vocab))
    assert [one.block for one in found] == list(range(model.n_layers))
    for one, own, block in zip(found, by_hand(case), blocks, strict=True):
        before, _ = norm_of(case, getattr(block, case.row.ln1))
        for number in (0, model.n_heads - 1):
            circuit = embed @ before @ own["v"][number] @ own["o"][number] @ after
            whole = circuit @ head.weight.detach().T
            values = torch.linalg.eigvals(whole.double())
            expected = values.real.sum() / values.abs().sum()
            assert float(one.eigenvalues[number]) == pytest.approx(float(expected), abs=2e-3)
            ranks = [(row < row[token]).float().sum() for token, row in enumerate(whole)]
            expected = torch.stack(ranks).mean() / (len(whole) - 1)
            assert float(one.own_rank[number]) == pytest.approx(float(expected), abs=2e-4)


def test_a_head_that_copies_and_one_that_suppresses() -> None:
    """W_V W_O = I and -I, with a head that reads what the embedding writes."""
    eye = torch.eye(6)[None]
    heads = HeadWeights(0, eye, eye, eye, eye)
    assert eigenvalue_ratio(heads, eye[0]).item() == pytest.approx(1.0)
    assert eigenvalue_ratio(replace(heads, o=-eye), eye[0]).item() == pytest.approx(-1.0)
    assert own_rank(eye).item() == 1.0
    assert own_rank(-eye).item() == 0.0
    assert own_rank(torch.zeros(1, 6, 6)).item() == 0.5


def test_the_planted_induction_head_copies_and_reads_the_previous_token_head() -> None:
    model = planted()
    found = list(copying(model))
    assert found[INDUCTION[0]].eigenvalues[INDUCTION[1]] > 0.9
    assert found[INDUCTION[0]].own_rank[INDUCTION[1]] == 1.0
    ratios = next(compositions(head_weights(model))).ratio
    low, high = interval(random_ratios(model.d_model, 44, n=100))
    k = ratios["k"][PREVIOUS[1], INDUCTION[1]]
    assert k > 2 * high
    assert k > 5 * ratios["q"][PREVIOUS[1], INDUCTION[1]]
    assert low < 1 / model.d_model**0.5 < high


def test_composition_is_the_ratio_of_the_whole_matrices(case: Case) -> None:
    blocks = list(head_weights(case.model))
    found = list(compositions(iter(blocks)))
    assert [(one.block_a, one.block_b) for one in found] == [(0, 1), (0, 2), (1, 2)]
    for one in found:
        a, b = blocks[one.block_a], blocks[one.block_b]
        for i in range(case.model.n_heads):
            ov = a.v[i] @ a.o[i]
            for j in range(case.model.n_heads):
                qk = b.q[j] @ b.k[j].T
                whole = {"q": qk, "k": qk.T, "v": b.v[j] @ b.o[j]}
                for mode in MODES:
                    norms = ov.norm() * whole[mode].norm()
                    expected = (ov @ whole[mode]).norm() / norms
                    assert float(one.ratio[mode][i, j]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_composition_is_transformerlens_where_no_norm_has_a_weight(
    name: str, tmp_path: Path
) -> None:
    """It folds no norm; LayerNorm's centring is all that is left, and taken out of its matrices."""
    case = with_norms_of_ones(name, tmp_path / name)
    model: LensModel = case.model
    if case.row.norm == "LN":
        hf = case.fresh_hf()
        with torch.no_grad():
            for block in hf.transformer.h:
                block.attn.c_attn.weight -= block.attn.c_attn.weight.mean(0, keepdim=True)
        hf.save_pretrained(case.folder, safe_serialization=True)
        model = load_model(case.folder, device="cpu")
    for mode in MODES:
        theirs = model.bridge.all_composition_scores(mode.upper()).scores
        for one in compositions(head_weights(model)):
            torch.testing.assert_close(
                one.ratio[mode], theirs[one.block_a, :, one.block_b], rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize(("d_model", "d_head"), [(64, 8), (100, 25)])
def test_random_heads_have_one_over_the_root_of_the_width(d_model: int, d_head: int) -> None:
    draws = random_ratios(d_model, d_head, n=200)
    assert float(draws.square().mean()) == pytest.approx(1 / d_model, rel=0.03)


def test_packed_weights_are_refused(llama: Case) -> None:
    """int8 numbers stand for others: read as they are they would be wrong."""
    with pytest.raises(ModelError, match=r"block 0 .* no weights to read .*Read it unquantised"):
        next(head_weights(load_model(f"{llama.folder}@8", device="cpu")))


def test_the_heads_of_every_family_have_weights(family: Case) -> None:
    found = list(head_weights(family.model))
    assert len(found) == family.model.n_layers
    assert all(len(heads.k) == len(heads.q) == family.model.n_heads for heads in found)


def _with_row(case: Case, folder: Path, matrix: str, row: float) -> LensModel:
    """The checkpoint with one token's row of the embedding or of the head so large."""
    hf = case.fresh_hf()
    with torch.no_grad():
        getattr(hf, f"get_{matrix}_embeddings")().weight[5] = row
    hf.save_pretrained(folder, safe_serialization=True)
    case.model.tokenizer.save_pretrained(folder)
    return load_model(folder, device="cpu")


def test_an_embedding_whose_square_overflows_is_a_direction_all_the_same(
    tiny_case: Callable[[str], Case], tmp_path: Path
) -> None:
    """A norm forgets its length: 1e25 gives what 1 gives."""
    case = tiny_case("llama")
    one, other = (
        list(copying(_with_row(case, tmp_path / str(row), "input", row))) for row in (1.0, 1e25)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.eigenvalues, b.eigenvalues)
        torch.testing.assert_close(a.own_rank, b.own_rank)


def test_what_overflows_has_no_copying_and_no_rank(
    tiny_case: Callable[[str], Case], tmp_path: Path
) -> None:
    """Each weight is finite, what they make together is not; composition is of heads alone."""
    model = _with_row(tiny_case("llama"), tmp_path, "output", 3.4e38)
    found = circuits_table(model).to_pandas()
    assert len(found) == model.n_layers * model.n_heads
    assert found["copying"].isna().all()
    assert found["own_rank"].isna().all()
    assert found.loc[found["block"] > 0, "q_ratio"].notna().all()
