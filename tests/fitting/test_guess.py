"""What the controls of a fitted lens read: against Hugging Face's head, and by a planted answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensbench import logit_lens, open_record
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.artifact import CONTROLS
from lensbench.lens.fitted.guess import guess_ranks
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.records.lens.record import LensRecord
from lensbench.residuals.capture import Residuals
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import write_csv
from tests.harness.reference import head_of_hugging_face
from tests.harness.tiny import Case

Fit = Callable[[Case], Path]
EMBED = Site("embed", 0)


@pytest.mark.parametrize("family", ("llama", "gemma2"))
def test_a_run_reads_the_controls_that_the_lens_holds(
    tiny_case: Callable[[str], Case], linear: Fit, tmp_path: Path, family: str
) -> None:
    """The better of both, from the last token's embedding by Hugging Face's own layers."""
    case = tiny_case(family)
    prompts = write_csv(tmp_path / "small.csv", facts_rows())
    lenses = ("final", str(linear(case)))
    spec = RunSpec((str(case.folder),), prompts=str(prompts), limit=3, lenses=lenses)
    record = open_record(run(spec.changed(heatmap_prompts=1), tmp_path / "run").folder)
    assert isinstance(record, LensRecord)
    assert record.manifest["lenses"]["linear"]["controls"] == ["fitted", "shuffled"]
    file, rows = load_file(linear(case) / CONTROLS), record.table("lens")
    assert rows[rows.lens == "final"].answer_guess_rank.isna().all()
    read = rows[(rows.lens == "linear") & rows.answer_id.notna()]
    assert len(read) > 3 * record.n_layers
    for (token, answer), own in read.groupby(["token_id", "answer_id"]):
        with torch.no_grad():
            embedding = case.hf(torch.tensor([[token]]), output_hidden_states=True).hidden_states[0]
        places = []
        for name in ("fitted", "shuffled"):
            state = embedding[0, 0] @ file[f"A.{name}"] + file[f"b.{name}"]
            logits = head_of_hugging_face(case, state).detach()
            places.append(int((logits >= logits[int(answer)]).sum()))
        assert set(own.answer_guess_rank) == {min(places)}


@pytest.fixture(scope="module")
def model(llama: Case) -> LensModel:
    return load_model(llama.folder, device="cpu")


def states_of(model: LensModel, n: int) -> Residuals:
    stream = torch.randn(1, n, model.d_model, generator=torch.Generator().manual_seed(0))
    return Residuals([EMBED], [(0, i) for i in range(n)], stream, torch.zeros(1, n, 1))


def test_a_planted_guess_is_found_and_one_that_is_not_there_at_its_rate(model: LensModel) -> None:
    """A control that always says one token reads that answer and, of the others, none."""
    nothing = torch.zeros(model.d_model, model.d_model)
    says = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    order = model.readout(says).argsort(descending=True)
    lens = Affine(model, {}, "planted", [AffineMap(nothing, says)])
    residuals, vocabulary = states_of(model, model.d_vocab), torch.arange(model.d_vocab)
    places = guess_ranks(lens, residuals, [EMBED], vocabulary)[0]
    assert places[order].tolist() == list(range(1, model.d_vocab + 1))
    assert int((places == 1).sum()) == 1  # of all answers there are: a rate of 1 / d_vocab


def test_a_tie_is_no_guess_yet_and_nothing_asked_is_nothing_read(model: LensModel) -> None:
    zero = AffineMap(torch.zeros(model.d_model, model.d_model), torch.zeros(model.d_model))
    residuals, answers = states_of(model, 2), torch.tensor([5, -1])
    flat = guess_ranks(Affine(model, {}, "flat", [zero]), residuals, [EMBED], answers)
    assert flat[0, 0] == model.d_vocab  # all tokens tie
    assert flat[0, 1].isnan()
    none = guess_ranks(Affine(model, {}, "none"), residuals, [EMBED], answers)
    assert none.isnan().all()
    lens, elsewhere = Affine(model, {}, "flat", [zero]), [Site("resid_post", 1)]
    unread = guess_ranks(lens, residuals, elsewhere, answers)
    assert unread.isnan().all()


def test_without_the_embedding_nothing_is_guessed(
    llama: Case, linear: Fit, model: LensModel
) -> None:
    read = logit_lens(model, "Rome is the", lens=str(linear(llama)), layers=[1], positions="last")
    assert read.to_pandas().answer_guess_rank.isna().all()
