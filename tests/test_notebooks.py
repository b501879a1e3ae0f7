"""Notebooks run from top to bottom, and are what their plain-text source says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

import lensbench
from tests.harness.tiny import TINY, save
from tests.harness.tiny_bert import save_bert

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_is_its_source(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    text = jupytext.read(source)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_has_a_public_name_is_used_by_it(source: Path) -> None:
    imports = [
        alias.name
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lensbench.")
        for alias in node.names
    ]
    assert sorted(set(imports) & set(lensbench.__all__)) == []


def printed(name: str) -> str:
    """All outputs of a notebook that runs without an error."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    return str(outputs)


@pytest.mark.slow
@pytest.mark.real
def test_the_residual_stream_notebook_runs(smollm_folder: Path) -> None:
    outputs = printed("01_residual_stream")
    assert "passed: True" in outputs
    assert "passed: False" in outputs  # the raw lens


@pytest.mark.slow
def test_the_correlation_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql: None
) -> None:
    save(TINY["llama"], tmp_path, {"max_position_embeddings": 512})
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_MODEL", str(tmp_path))
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_PROMPTS", "12")
    outputs = printed("02_layer_correlation")
    assert "as long in tokens: 12 of 12; at most 0 shorter" in outputs
    assert "cosine 1 at all 4 layers: True" in outputs


@pytest.mark.slow
def test_the_adapter_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(TINY["llama"], tmp_path, {"max_position_embeddings": 512})
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_MODEL", str(tmp_path))
    outputs = printed("03_adapter_training")
    assert "base again: True, changed: True" in outputs
    assert "peak_learning_rate: 0.001 there, 0.002 now" in outputs


@pytest.mark.slow
def test_the_fitted_lens_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(TINY["llama"], tmp_path / "model", {"max_position_embeddings": 512})
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_TOKENS", "900")
    outputs = printed("04_fitted_lenses")
    assert "nearer to the model than the logit lens at half depth: True" in outputs
    assert "it was altered after it was written" in outputs
    assert "worse at the wrong layers: True" in outputs


@pytest.mark.slow
def test_the_attention_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(TINY["llama"], tmp_path, {"max_position_embeddings": 512})
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_MODEL", str(tmp_path))
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_PROMPTS", "4")
    outputs = printed("05_attention_heads")
    assert "above every head of random attention and of no training: " in outputs
    assert "missed most where text repeats itself: " in outputs


@pytest.mark.slow
def test_the_notebook_of_one_sentence_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(TINY["llama"], tmp_path / "model", {"max_position_embeddings": 512})
    encoder = save_bert(tmp_path / "encoder")
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_ENCODER", str(encoder))
    monkeypatch.setenv("LENSBENCH_NOTEBOOK_TEXTS", "2")
    monkeypatch.chdir(tmp_path)  # the page is written where the notebook runs
    outputs = printed("06_from_text_to_tokens")
    assert re.search(r"differ by at most (0|\de-1\d)", outputs)
    assert "greedy           1 of 1 differ" in outputs
