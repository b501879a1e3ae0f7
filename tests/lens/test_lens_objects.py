"""A lens is an object: a fourth one, fitted or not, is one class and one line in the registry.

`Affine` is written here as a lens of the package would be, and put where its line would stand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench import GateError, InputProblems, Prompt, check_identities, load_model, logit_lens
from lensbench.errors import ModelError
from lensbench.lens.base import Lens, Raw
from lensbench.lens.cached import lens_from_cache
from lensbench.lens.gate import require
from lensbench.lens.logit import read_batch
from lensbench.lens.milestones import milestones_table
from lensbench.lens.registry import LENSES, make_lens
from lensbench.lens.settings import LensSettings
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.encode import Encoder, encode_all
from lensbench.prompts.prompt import as_prompts
from lensbench.residuals.store import open_cache
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from tests.harness.reference import Reference, statistics
from tests.harness.tiny import PROMPTS, Case

NUMBERS = ("entropy_bits", "kl_bits", "cos_final", "answer_rank", "next_surprisal_bits")


def maps(site: Site, d_model: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A_l and b_l, the same ones for the same layer."""
    generator = torch.Generator().manual_seed(site.layer)
    A = torch.eye(d_model) + 0.2 * torch.randn(d_model, d_model, generator=generator)
    return A, 0.5 * torch.randn(d_model, generator=generator)


class Affine(Lens):
    """x -> A_l x + b_l, then the model's own norm and head; the identity at the last layer."""

    def __init__(self, model: LensModel) -> None:
        super().__init__(model)
        self.last = model.final_site

    def transform(self, resid: torch.Tensor, site: Site) -> torch.Tensor:
        if site == self.last:
            return resid
        A, b = maps(site, resid.shape[-1])
        return resid @ A.T + b


class Wrong(Affine):
    """Fitted at the last layer too, where it must not be."""

    def transform(self, resid: torch.Tensor, site: Site) -> torch.Tensor:
        A, b = maps(site, resid.shape[-1])
        return resid @ A.T + b


class Modest(Wrong):
    """The same, but it claims nothing."""

    headline = False


class Same(Affine):
    """Its maps are identities."""

    def transform(self, resid: torch.Tensor, site: Site) -> torch.Tensor:
        return resid @ torch.eye(resid.shape[-1])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Affine, Wrong, Modest, Same):
        monkeypatch.setitem(LENSES, kind.__name__.lower(), kind)


def test_an_affine_lens_reads_what_its_maps_make_of_each_layer(family: Case) -> None:
    """The maps by hand, the readout and the statistics in float64 and not of lensbench."""
    frame = logit_lens(family.model, PROMPTS[2], lens="affine", sites=("embed", "resid_post"))
    frame, ids = frame.to_pandas(), family.token_ids[2]
    reference = Reference(family.hf, family.row)
    stream, model_logits = reference.run(ids)
    for (name, layer), rows in frame.groupby(["site", "layer"]):
        resid = stream[name, layer]
        if layer < family.model.n_layers:
            A, b = maps(Site(name, layer), resid.shape[-1])
            resid = (resid.double() @ A.T.double() + b.double()).float()
        logits = reference.logits(resid, "final", (name, layer))
        wanted = statistics(logits, model_logits, ids[0], ids[1:])
        rows = rows.sort_values("position")
        for column in ("entropy_bits", "kl_bits", "next_surprisal_bits"):
            got = rows[column].to_numpy(dtype=float)
            np.testing.assert_allclose(got, wanted[column], atol=5e-5, rtol=1e-4)


def test_a_lens_of_identities_is_the_final_lens_to_the_bit(family: Case) -> None:
    frame = logit_lens(family.model, list(PROMPTS), lens=("final", "same")).to_pandas()
    final, same = (frame[frame.lens == name] for name in ("final", "same"))
    assert len(final) == len(same) > 0
    for column in NUMBERS:
        assert final[column].equals(same[column].set_axis(final.index)), column
    assert [list(ids) for ids in final.top_ids] == [list(ids) for ids in same.top_ids]


def test_lenses_stand_side_by_side_from_one_pass(llama: Case) -> None:
    """Each reads what it reads alone."""
    together = logit_lens(llama.model, PROMPTS[0], lens=("raw", "affine", "final")).to_pandas()
    assert list(dict.fromkeys(together.lens)) == ["raw", "affine", "final"]
    alone = logit_lens(llama.model, PROMPTS[0], lens="affine").to_pandas()
    part = together[together.lens == "affine"].reset_index(drop=True)
    for column in NUMBERS:
        assert part[column].equals(alone[column]), column
    final = together[together.lens == "final"]
    middle = part.layer.between(1, 2)
    assert np.abs(part[middle].kl_bits.to_numpy() - final.kl_bits.to_numpy()[middle]).max() > 0.1


# The gate.


def test_a_lens_that_is_the_model_at_the_last_layer_passes(family: Case) -> None:
    identities = check_identities(family.model, family.token_ids, "affine")
    assert "lens 'affine' at the last layer" in identities[0].identity
    require(identities)


def test_a_lens_that_is_not_the_model_there_reports_nothing(llama: Case) -> None:
    words = "lens 'wrong' at the last layer = the model's output"
    for settings in ({}, {"layers": 1}, {"positions": "last"}):
        with pytest.raises(GateError, match=words):
            logit_lens(llama.model, PROMPTS[0], lens=("final", "wrong"), **settings)
    encoded, _ = encode_all(Encoder(llama.model.tokenizer, 64), as_prompts(PROMPTS[0]))
    with pytest.raises(GateError, match=words):
        read_batch(llama.model, encoded, LensSettings(("wrong",)))
    assert check_identities(llama.model, PROMPTS[0], "wrong")[0].passed is False


def test_a_lens_for_sensitivity_is_not_held_to_the_model(llama: Case) -> None:
    result = logit_lens(llama.model, PROMPTS[0], lens=("modest", "raw", "next"))
    assert result.gate_kl_bits < 1e-6  # of the final lens, though it was not asked for
    assert [name for name, lens in LENSES.items() if not lens.headline] == ["next", "raw", "modest"]


# Where lenses come from.


def test_a_lens_reads_a_cache_as_it_reads_the_model(llama: Case, tmp_path: Path) -> None:
    file = tmp_path / "small.csv"
    rows = "".join(f'{i},x,"{text}",\n' for i, text in enumerate(PROMPTS))
    file.write_text("id,relation,prompt,answer\n" + rows)
    spec = CacheSpec(model=str(llama.folder), prompts=str(file), positions="all")
    assert run_cache(spec, tmp_path / "cache") == []
    cache = open_cache(tmp_path / "cache")
    model = load_model(llama.folder, device="cpu")
    found = lens_from_cache(cache, model, lens="affine").to_pandas()
    live = logit_lens(llama.model, list(PROMPTS), lens="affine").to_pandas()
    assert len(found) == len(live)
    np.testing.assert_allclose(found.entropy_bits, live.entropy_bits, atol=2e-5)
    with pytest.raises(GateError, match="lens 'wrong'"):
        lens_from_cache(tmp_path / "cache", model, lens="wrong")  # the folder will do


def test_its_milestones_stand_beside_the_others(llama: Case) -> None:
    result = logit_lens(
        llama.model, Prompt("p", PROMPTS[0], answer="Berlin"), lens=("affine", "final")
    )
    found = milestones_table("llama", 3, result.table, result.prompts)
    assert found["lens"].to_pylist() == ["final", "affine"]  # in the order of the registry
    assert found["kl_1bit_layer"].to_pylist()[1] is not None


def test_each_name_makes_its_lens(llama: Case) -> None:
    for name, kind in LENSES.items():
        assert isinstance(make_lens(name, llama.model), kind)
        assert kind.__doc__


def test_a_lens_is_made_once_in_a_run(
    llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches there are: a fitted one is read from files, and warns."""
    made = []

    class Counted(Raw):
        def __init__(self, model: LensModel) -> None:
            super().__init__(model)
            made.append(self)

    monkeypatch.setitem(LENSES, "raw", Counted)
    result = logit_lens(llama.model, list(PROMPTS), lens=("final", "raw"), batch_tokens=8)
    assert result.prompts.num_rows == len(PROMPTS)
    assert len(made) == 1
    file = tmp_path / "small.csv"
    rows = "".join(f'{i},x,"{text}",Berlin\n' for i, text in enumerate(PROMPTS))
    file.write_text("id,relation,prompt,answer\n" + rows)
    spec = RunSpec((str(llama.folder),), str(file), lenses=("final", "raw"), batch_tokens=8)
    assert run(spec, tmp_path / "run").ok
    assert len(made) == 2


def test_an_unknown_lens_is_one_sentence(llama: Case) -> None:
    words = "lens: there is no 'tunnel'. Choose from final, next, raw, affine"
    for call in (
        lambda: make_lens("tunnel", llama.model),
        lambda: check_identities(llama.model, PROMPTS[0], "tunnel"),
        lambda: LensSettings(("tunnel",)),
    ):
        with pytest.raises(InputProblems) as caught:
            call()
        assert words in str(caught.value)


def test_the_next_lens_says_where_it_has_no_norm(gpt2: Case) -> None:
    """At the sum after attention and MLP there is one, at what attention adds there is none."""
    lens = make_lens("next", gpt2.model)
    resid = torch.ones(1, gpt2.model.d_model)
    assert lens.logits(resid, Site("resid_post", 1)).shape == (1, gpt2.model.d_vocab)
    with pytest.raises(ModelError, match="no norm at attn_out of layer 1"):
        lens.logits(resid, Site("attn_out", 1))
