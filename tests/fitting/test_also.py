"""A lens on a corpus that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensbench import InputProblems, open_record
from lensbench.fitting.spec import FitSpec
from lensbench.lens.fitted.artifact import open_lens
from lensbench.report.build import build_report
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import tables
from tests.harness.tiny import SENTENCES, Case


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the same words in another order."""
    folder, words = tmp_path_factory.mktemp("other"), " ".join(SENTENCES).split()
    chance = np.random.default_rng(1)
    for number in range(80):
        (folder / f"{number}.txt").write_text(" ".join(chance.choice(words, 40)))
    return folder


def test_figures_on_another_corpus_are_of_the_same_maps(
    llama: Case, fit_spec: Callable[..., FitSpec], other: Path, tmp_path: Path
) -> None:
    out = tmp_path / "linear"
    assert fit_lens(fit_spec(llama, also=str(other)), out).ok
    frames = tables(out)
    there, here = frames["fit_also"], frames["fit_quality"]
    keys = ["reading", "layer", "strength"]
    assert there[keys].equals(here[keys])
    documents = frames["fit_documents"]
    own = documents[documents.part == "other"]
    assert there.n_documents.unique().tolist() == [len(own)]
    assert there.n_tokens.unique().tolist() == [(own.n_tokens - 1).sum()]
    assert not set(own.document) & set(documents[documents.part != "other"].document)
    assert not np.allclose(there.kl_bits[:3], here.kl_bits[:3])
    kind = open_lens(str(out), llama.model.name).kind["also"]
    below = there[(there.reading == "fitted") & (there.layer < llama.model.n_layers)]
    assert kind["kl_bits"] == pytest.approx(below.kl_bits.mean())
    assert kind["corpus"] == open_record(out).manifest["also"]["name"]
    build_report([out], tmp_path / "report")
    text = next((tmp_path / "report").rglob("report.md")).read_text(encoding="utf-8")
    assert "another corpus" in text


def test_the_corpus_itself_gives_the_other_part_only_what_was_not_read(
    llama: Case, fit_spec: Callable[..., FitSpec], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "linear"
    assert fit_lens(fit_spec(llama, also=str(corpus)), out).ok
    assert not tables(out)["fit_documents"].document.duplicated().any()


def test_another_corpus_that_is_too_small_is_refused(
    llama: Case, fit_spec: Callable[..., FitSpec], tmp_path: Path
) -> None:
    (tmp_path / "small.txt").write_text("Rome is the capital of nothing at all. " * 3)
    with pytest.raises(InputProblems, match="short: other"):
        fit_lens(fit_spec(llama, also=str(tmp_path / "small.txt")), tmp_path / "linear")
