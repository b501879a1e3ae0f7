"""Every number of the lens against Hugging Face's own modules, for every family, layer, position.

The reference (reference.py) shares no code with lensbench. The Hugging Face model is loaded from
the folder a second time, because bridging changes the one it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

from lensbench import InputProblems, Prompt, logit_lens, residual_stream
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from tests.harness.families import distinct_families
from tests.harness.reference import Array, Reference, is_top_k, possible_ranks, statistics
from tests.harness.tiny import PROMPTS, Case

# Float32 logits of magnitude 30 are spaced 2e-6 apart: with a few roundings on the way, errors of
# 1e-5 bits are those of the format.
BITS = 2e-5
K = 7
ANSWER = "Berlin"


@pytest.fixture(scope="module")
def reference(family: Case) -> Reference:
    return Reference(family.hf, family.row)


def read(case: Case, lens: str, metrics: tuple[str, ...] = ()) -> pd.DataFrame:
    prompts = [Prompt(f"p{i}", text, answer=ANSWER) for i, text in enumerate(PROMPTS)]
    sites = ("embed", "resid_mid", "resid_post")
    return logit_lens(
        case.model, prompts, lens=lens, sites=sites, top_k=K, metrics=metrics
    ).to_pandas()


def assert_equals_reference(frame: pd.DataFrame, reference: Reference, lens: str) -> int:
    """Compare every row; returns how many cells were compared."""
    n_cells = 0
    for _, part in frame.groupby("prompt_id"):
        ids = part.drop_duplicates("position").sort_values("position").token_id.tolist()
        stream, model_logits = reference.run(ids)
        assert set(zip(part.site, part.layer, strict=True)) == set(stream)
        for key, rows in part.groupby(["site", "layer"]):
            logits = reference.logits(stream[key], lens, key)
            rows = rows.sort_values("position")
            assert rows.position.tolist() == list(range(len(ids)))
            assert_layer(rows, logits, model_logits, ids, f"{lens} lens at {key}")
            norms = stream[key].norm(dim=-1).numpy()
            np.testing.assert_allclose(rows.resid_norm, norms, rtol=1e-5)
            n_cells += len(rows)
    return n_cells


def assert_layer(
    rows: pd.DataFrame, logits: Array, model_logits: Array, ids: list[int], where: str
) -> None:
    answer = int(rows.answer_id.iloc[0])
    wanted_of = statistics(logits, model_logits, answer, ids[1:])
    if rows.js_bits.isna().all():
        del wanted_of["js_bits"]
    for name, wanted in wanted_of.items():
        got = rows[name].to_numpy(dtype=float)
        np.testing.assert_allclose(got, wanted, atol=BITS, rtol=1e-5, err_msg=f"{name}: {where}")
    for row, z in zip(rows.itertuples(), logits, strict=True):
        assert int(row.answer_rank) in possible_ranks(z, answer), where
        assert len(row.top_ids) == K
        assert is_top_k(z, list(row.top_ids)), where
        probs = np.exp(log_softmax(z))[list(row.top_ids)]
        np.testing.assert_allclose(row.top_probs, probs, atol=1e-5, err_msg=where)


def test_the_bridge_gives_hugging_face_s_logits(family: Case) -> None:
    for prompt, ids in zip(PROMPTS, family.token_ids, strict=True):
        with torch.no_grad():
            truth = family.hf(torch.tensor([ids])).logits
        logits = residual_stream(family.model, prompt).logits
        # Eager attention here, sdpa there: the same sums in another order.
        torch.testing.assert_close(logits, truth, atol=5e-5, rtol=0)


def test_the_residual_stream_is_hugging_face_s(family: Case, reference: Reference) -> None:
    for ids in family.token_ids:
        stream, _ = reference.run(ids)
        residuals = residual_stream(family.model, ids, ("embed", "resid_mid", "resid_post"))
        assert {(site.kind, site.layer) for site in residuals.sites} == set(stream)
        for (point, layer), wanted in stream.items():
            got = residuals.at(Site(point, layer))
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5, msg=f"{point} {layer}")
        assert torch.equal(residuals.at(Site("embed", 0)), stream["embed", 0])


def test_the_final_lens_at_every_layer_and_position(family: Case, reference: Reference) -> None:
    n_cells = assert_equals_reference(read(family, "final"), reference, "final")
    n_sites = 1 + family.model.n_layers * (1 if family.row.ln2 is None else 2)
    assert n_cells == n_sites * sum(len(ids) for ids in family.token_ids)


@distinct_families
def test_what_is_asked_for_comes_beside_the_rest(family: Case, reference: Reference) -> None:
    """By two passes over held logits, where all else takes one over tiles."""
    frame, plain = read(family, "final", metrics=("js_bits",)), read(family, "final")
    assert frame.js_bits.notna().all()
    assert plain.js_bits.isna().all()
    assert assert_equals_reference(frame, reference, "final") == len(plain)


@distinct_families
@pytest.mark.parametrize("lens", ["raw", "next"])
def test_the_other_lenses_are_what_they_are_called(
    family: Case, reference: Reference, lens: str
) -> None:
    assert assert_equals_reference(read(family, lens), reference, lens) > 0


def test_the_three_lenses_differ_in_the_middle(family: Case) -> None:
    """Or the comparison above would prove nothing about which norm was used."""
    entropies = {}
    for lens in ("final", "raw", "next"):
        frame = read(family, lens)
        entropies[lens] = frame[(frame.site == "resid_post") & (frame.layer == 1)].entropy_bits
    for one, other in (("final", "raw"), ("final", "next"), ("raw", "next")):
        assert np.abs(entropies[one].values - entropies[other].values).max() > 0.02


def test_cosine_to_the_final_residual(family: Case, reference: Reference) -> None:
    frame = read(family, "final")
    part = frame[frame.prompt_id == "p0"]
    ids = part.drop_duplicates("position").sort_values("position").token_id.tolist()
    stream, _ = reference.run(ids)
    with torch.no_grad():
        normed = {key: reference.final_norm(x[None])[0].double() for key, x in stream.items()}
    last = normed["resid_post", family.model.n_layers]
    for row in part.itertuples():
        x = normed[row.site, row.layer][row.position]
        wanted = torch.cosine_similarity(x, last[row.position], dim=0)
        assert row.cos_final == pytest.approx(float(wanted), abs=1e-5)


def test_layers_positions_and_points_only_select(llama: Case) -> None:
    text = PROMPTS[0]
    whole = logit_lens(llama.model, text, sites=("embed", "resid_mid", "resid_post")).to_pandas()
    key = ["site", "layer", "position"]
    chosen = logit_lens(llama.model, text, layers=[0, 2], positions=[1, -1]).to_pandas()
    assert set(zip(chosen.site, chosen.layer, strict=True)) == {("embed", 0), ("resid_post", 2)}
    assert set(chosen.position) == {1, len(llama.token_ids[0]) - 1}
    both = chosen.merge(whole, on=key, suffixes=("", "_whole"))
    assert len(both) == len(chosen)
    np.testing.assert_allclose(both.entropy_bits, both.entropy_bits_whole, atol=BITS)
    assert [list(ids) for ids in both.top_ids] == [list(ids) for ids in both.top_ids_whole]


def test_parallel_blocks_have_no_point_between(tiny_case: Callable[[str], Case]) -> None:
    case = tiny_case("gpt_neox")
    frame = logit_lens(case.model, PROMPTS[0], sites=("embed", "resid_mid", "resid_post"))
    assert set(frame.to_pandas().site) == {"embed", "resid_post"}


def test_the_public_call_is_gated_at_the_last_layer(family: Case) -> None:
    """Even when only other layers are asked for."""
    result = logit_lens(family.model, PROMPTS[0], layers=[1])
    assert set(result.to_pandas().layer) == {1}
    assert 0 <= result.gate_kl_bits < 1e-6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lens": "tunnel"}, "lens: there is no 'tunnel'. Choose from final, next, raw"),
        ({"lens": ()}, "lens: is empty"),
        ({"sites": ["mlp_out"]}, "sites: there is no 'mlp_out'"),
        ({"positions": "first"}, "positions: there is no 'first'"),
        ({"positions": [99]}, "no 99"),
        ({"positions": []}, "there is nothing to read"),
        ({"layers": [4, -1]}, "has no layer 4, -1"),
        ({"layers": []}, "none of the sites"),
        ({"padding_side": "both"}, "padding_side: there is no 'both'"),
        ({"top_k": 0}, "top_k: is 0"),
        ({"top_k": 385}, "top_k: is 385, llama has 384 tokens"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_read(llama: Case, settings: dict[str, Any], words: str) -> None:
    """A lens that does not exist must not quietly become another."""
    with pytest.raises(InputProblems) as caught:
        logit_lens(llama.model, PROMPTS[0], **settings)
    assert words in str(caught.value)


def test_all_bad_settings_are_named_at_once(llama: Case) -> None:
    with pytest.raises(InputProblems) as caught:
        logit_lens(llama.model, PROMPTS[0], lens="tunnel", positions="first", top_k=0)
    assert [problem.where for problem in caught.value.problems] == ["lens", "positions", "top_k"]


def test_no_prompt_and_no_earlier_position(gpt2: Case) -> None:
    with pytest.raises(InputProblems, match="nothing to read"):
        logit_lens(gpt2.model, [])
    with pytest.raises(InputProblems, match="nothing to read"):
        logit_lens(gpt2.model, "T", positions="earlier")
    result = logit_lens(gpt2.model, ["T", PROMPTS[0]], positions="earlier", batch_tokens=1)
    assert set(result.to_pandas().prompt_id) == {"p2"}


@pytest.mark.real
def test_the_demo_model_knows_the_capital(smollm: LensModel) -> None:
    frame = logit_lens(
        smollm, Prompt("berlin", "The capital of Germany is", answer="Berlin"), positions="last"
    ).to_pandas()
    last = frame[frame.layer == 30].iloc[0]
    assert last.top_tokens[0] == " Berlin"
    assert last.answer_rank == 1
    assert last.answer_prob == pytest.approx(0.80, abs=0.02)
