"""The bench of corpora: what is mixed, which layers stand for a third, and what a cell says."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from lensbench.corpora.corpus import Corpus, Document, gathered
from lensbench.fitting.quality import Measured
from lensbench.fitting.windows import Window
from lensbench.models.load import load_model
from tests.benchmarks import corpora as bench
from tests.harness.tiny import SENTENCES, TINY, save


def windows(*lengths: int) -> list[Window]:
    return [Window(Document(str(n), "", str(i)), (1,) * n) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("lengths", [(10, 10, 10, 10), (4, 4), (30, 5, 5, 9, 20), (7, 7, 7)])
def test_halves_hold_as_many_tokens_but_for_a_window(lengths: tuple[int, ...]) -> None:
    one, other = bench.halves(windows(*lengths))
    assert one + other == windows(*lengths)
    a, b = (sum(len(w.token_ids) for w in half) for half in (one, other))
    assert abs(a - b) <= 2 * max(lengths) and one


@pytest.mark.parametrize("n_layers", range(6, 80))
def test_two_layers_stand_for_each_third(n_layers: int) -> None:
    depths = np.array(bench.places(n_layers)) / n_layers
    assert len(set(depths)) == 6 and depths.max() < 1
    assert (np.abs(depths - (np.arange(6) + 0.5) / 6) < 1 / n_layers).all()


def test_a_cell_is_the_mean_over_tokens_and_layers() -> None:
    kl = np.arange(2 * 6 * 3, dtype=float).reshape(2, 6, 3)
    tokens = np.array([2, 3, 5])
    none = np.zeros(0)
    measured = Measured(tokens, kl, kl, none, none, none)
    total = bench.bits_and_tokens(measured, 1, 2).sum(0)
    assert bench.mean(total) == pytest.approx((kl[1, 4].sum() + kl[1, 5].sum()) / 2 / 10)
    total = bench.bits_and_tokens(measured, 0, None).sum(0)
    assert bench.mean(total) == pytest.approx(kl[0].sum() / 6 / 10)
    assert bench._difference(measured, 1, 0).value == pytest.approx((kl[1] - kl[0]).sum() / 60)


@pytest.mark.slow
def test_every_lens_is_read_on_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(save(TINY["qwen3"], tmp_path, {"num_hidden_layers": 6}), device="cpu")
    words, chance = " ".join(SENTENCES).split(), random.Random(0)

    def texts(own: list[str]) -> Corpus:
        rows = [(str(i), " ".join(chance.choices(own, k=30))) for i in range(120)]
        return gathered("words", rows)

    made = {"python-docs": words[:20], "science-docs": words[20:], "model": words}
    monkeypatch.setattr(
        bench, "corpora", lambda *_: {name: texts(own) for name, own in made.items()}
    )
    fits, found = bench.study(model, tokens=600, test_tokens=300)
    text = "\n".join(bench.section(model, fits, found))
    assert [*found] == [*made, "prose", "facts"]
    for one in found.values():
        assert np.isfinite(one.kl_bits).all() and (one.n_tokens > 0).all()
    own = found["science-docs"].mean_kl_bits[:, 1:].mean(1)
    assert own[fits.index("science-docs")] < own[fits.index(bench.LOGIT)]
    assert text.count("\n| science-docs |") == 4 and text.count("\n| python-docs + model |") == 4
