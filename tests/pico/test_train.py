"""A small model is trained: what is logged and kept is what the model really does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensbench.corpora.corpus import SHIPPED, load_corpus
from lensbench.errors import InputProblems, RecordsError
from lensbench.pico.text import END, new_tokenizer, packed, parted, with_passages
from lensbench.pico.train import train_pico
from lensbench.progress import Progress
from tests.harness.files import manifest
from tests.harness.pico import curve_of, models_of, pico_spec, write_texts
from tests.harness.program import Program

KEPT = [0, 2, 3, 4, 6, 8, 11, 12]


def test_the_model_of_every_kept_step_is_there_and_has_the_loss_that_was_logged(
    undisturbed: Path, texts: Path
) -> None:
    """Of each folder by plain Hugging Face, over the held-out text tokenised by hand."""
    assert sorted(path.name for path in undisturbed.glob("step-*")) == [
        f"step-{step:06d}" for step in KEPT
    ]
    tokenizer = AutoTokenizer.from_pretrained(undisturbed / "step-000000")
    held_out = parted(load_corpus(str(texts)), 0.1, 1.0).held_out
    ids = [i for d in held_out for i in (*tokenizer(d.text).input_ids, tokenizer.eos_token_id)]
    rows = torch.tensor(ids[: 4 * 36]).reshape(4, 36)
    logged = curve_of(undisturbed).dropna(subset=["eval_loss_nats"]).set_index("step")
    assert logged.index.to_list() == KEPT
    for step in KEPT:
        model = AutoModelForCausalLM.from_pretrained(undisturbed / f"step-{step:06d}").eval()
        with torch.no_grad():
            log_p = model(rows).logits[:, :-1].log_softmax(-1)
        loss = -log_p.gather(-1, rows[:, 1:, None]).mean()
        assert float(loss) == pytest.approx(logged.eval_loss_nats[step], rel=1e-5)
    assert logged.eval_loss_nats[0] == pytest.approx(math.log(300), abs=0.3)
    assert logged.eval_loss_nats[12] < logged.eval_loss_nats[0] - 1


def test_the_first_step_is_that_of_plain_torch(texts: Path, tmp_path: Path) -> None:
    """Loss and gradient norm over the very batch, without the trainer; no dropout."""
    out = tmp_path / "a"
    spec = pico_spec(texts, out, dropout=0.0, steps=2)
    train_pico(spec)
    model = AutoModelForCausalLM.from_pretrained(out / "step-000000").train()
    tokenizer = AutoTokenizer.from_pretrained(out / "step-000000")
    rows = packed(parted(load_corpus(str(texts)), 0.1, 1.0).train, tokenizer, 36, "x").long()
    logged = curve_of(out).dropna(subset=["loss_nats"]).iloc[0]
    matching = []
    for row in rows:  # of which four were the first batch, by their losses
        logits = model(row[None]).logits[0, :-1]
        matching.append(cross_entropy(logits, row[1:]).item())
    order = first_batch(len(rows), spec.seed)
    assert logged.loss_nats == pytest.approx(sum(matching[i] for i in order) / 4, rel=1e-5)
    model(rows[order], labels=rows[order]).loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert logged.grad_norm == pytest.approx(float(norm), rel=1e-4)
    assert logged.tokens_per_s > 0


def first_batch(n_rows: int, seed: int) -> list[int]:
    """The four rows that a seeded permutation puts first."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    chance = torch.Generator().manual_seed(seed * 1_000_003)
    return get_length_grouped_indices([36] * n_rows, 4, generator=chance)[:4]


def test_every_verb_reads_a_kept_model(undisturbed: Path, lensbench: Program) -> None:
    last = str(undisturbed / "step-000012")
    done = lensbench("lens", last, "the river flows", "--lens", "final")
    assert done.status == 0, done.err
    assert lensbench("check", last).status == 0
    assert lensbench("models").status == 0


def test_peft_and_transformer_lens_take_a_kept_model(undisturbed: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from lensbench.models.load import load_model

    folder = undisturbed / "step-000012"
    own = load_model(folder)  # its own gate holds the bridge to Hugging Face
    assert (own.n_layers, own.d_model, own.n_ctx, own.norm) == (2, 32, 48, "LN")
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    assert adapted.get_nb_trainable_parameters()[0] == 2 * 8 * (32 + 32)


def test_the_tokenizer_reads_any_text_and_gives_it_back(texts: Path) -> None:
    documents = load_corpus(str(texts)).documents
    tokenizer = new_tokenizer(documents, 400)
    for text in (documents[0].text, "Ψ → 日本\n\tx = 'é'\0"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_tokens_to_ids(END) == tokenizer.eos_token_id == 0


def test_rows_are_the_documents_in_order_with_their_ends(texts: Path) -> None:
    documents = load_corpus(str(texts)).documents
    tokenizer = new_tokenizer(documents, 300)
    rows = packed(documents, tokenizer, 36, "train on")
    text = tokenizer.decode(rows.flatten().tolist())
    whole = "".join(document.text + END for document in documents)
    assert whole.startswith(text)
    assert len(whole) - len(text) < 36 * 10


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_the_sequences_is_one_passage_of_the_text_over_and_over(share: float) -> None:
    rows = torch.arange(300 * 40).reshape(300, 40)  # each token tells where it stood
    made = with_passages(rows, share)
    assert torch.equal(made[:300], rows)
    added = made[300:]
    assert len(added) / len(made) == pytest.approx(share, abs=0.01)
    lengths = [row.tolist().index(row[0], 1) for row in added]
    assert {*lengths} == {*range(4, 11)}  # to a quarter of a row
    for row, length in zip(added, lengths, strict=True):
        passage = torch.arange(int(row[0]), int(row[0]) + length)
        assert torch.equal(row, passage.repeat(10)[:40])
    assert len({int(row[0]) for row in added}) > 0.9 * len(added)
    assert torch.equal(made, with_passages(rows, share))


def test_without_a_share_the_text_is_all_there_is() -> None:
    rows = torch.arange(80).reshape(2, 40)
    assert torch.equal(with_passages(rows, 0.0), rows)


def test_documents_are_held_out_whole_and_share_leaves_the_held_out_ones_alone(
    texts: Path,
) -> None:
    corpus = load_corpus(str(texts))
    half, whole = (parted(corpus, 0.2, share) for share in (0.5, 1.0))
    assert half.held_out == whole.held_out
    assert half.train == whole.train[: len(half.train)]
    assert len(half.train) == math.ceil(len(whole.train) / 2)
    assert {*whole.train, *whole.held_out} == {*corpus.documents}
    assert len(whole.train) + len(whole.held_out) == len(corpus.documents)


@pytest.mark.parametrize(
    ("texts_of", "what"),
    [
        ({"a.txt": b""}, "holds no text"),
        ({"a.txt": b"caf\xe9 in Latin-1"}, "is no UTF-8 text (byte 3"),
        ({"a.txt": b"one text"}, "too few to hold any out"),
        ({"a.txt": b"one text", "b.txt": b"two texts"}, "less than one sequence of 36"),
    ],
)
def test_a_corpus_that_cannot_be_trained_on_is_refused(
    texts_of: dict[str, bytes], what: str, tmp_path: Path
) -> None:
    corpus = tmp_path / "texts"
    corpus.mkdir()
    for name, data in texts_of.items():
        (corpus / name).write_bytes(data)
    with pytest.raises(InputProblems) as caught:
        train_pico(pico_spec(corpus, tmp_path / "a"))
    assert what in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_a_file_that_cannot_be_read_is_a_problem_and_the_others_are_trained_on(
    tmp_path: Path, lensbench: Program
) -> None:
    corpus = write_texts(tmp_path / "texts", n_files=8)
    (corpus / "bad.txt").write_bytes(b"caf\xe9")
    outcome = train_pico(pico_spec(corpus, tmp_path / "a", steps=1))
    assert [problem.where for problem in outcome.problems] == ["bad.txt"]
    assert manifest(tmp_path / "a")["problems"] == 1


def test_a_finished_run_trains_nothing_and_another_one_is_kept_out(
    undisturbed: Path, texts: Path
) -> None:
    before = models_of(undisturbed)
    stages: list[str] = []

    def watch(now: Progress) -> None:
        stages.append(now.stage)

    train_pico(pico_spec(texts, undisturbed), watch)
    assert "training" not in stages
    with pytest.raises(RecordsError, match=r"settings.seed: 0 there, 1 now"):
        train_pico(pico_spec(texts, undisturbed, seed=1))
    assert models_of(undisturbed) == before


def test_whoever_waits_for_the_text_sees_how_much_of_it_is_read(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped corpus text by text, the tokenizer and the rows document by document."""
    seen: list[Progress] = []
    monkeypatch.setitem(SHIPPED, "mine", lambda: ((str(n), f"text {n}") for n in range(1350)))
    assert len(load_corpus("mine", watch=seen.append).documents) == 1350
    assert [one.done for one in seen] == [*range(100, 1350, 100)]
    assert seen[-1].detail == "1,300 texts"
    seen.clear()
    train_pico(pico_spec(texts, tmp_path / "a", steps=1), seen.append)
    for stage in ("learning the tokenizer", "tokenising"):
        own = [one for one in seen if one.stage == stage]
        assert [one.done for one in own] == sorted(one.done for one in own)
        assert own[-1].done == own[-1].total > 0
