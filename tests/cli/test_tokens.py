"""`lensbench tokens` as a user runs it, on tokenizers without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lensbench as lb
from lensbench.records.open import open_record
from lensbench.records.record import Record
from tests.harness import tokenizers
from tests.harness.program import Program

NASTY = "\x1b[31mred\x07 [bold]x[/bold] | \u202e<script>alert(1)</script>"
MIXED = "मला AI आवडतो"
RTL = "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق " * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A byte-level and a WordPiece tokenizer, each a folder without weights."""
    where = tmp_path_factory.mktemp("tokenizers")
    made = {
        "bytes": tokenizers.byte_level(["I love AI, and all human beings."] * 9),
        "words": tokenizers.wordpiece("[UNK]", "i", "love", "ai", "the", "m", "##a", "!"),
    }
    for name, one in made.items():
        one.hf.save_pretrained(where / name)
    return [str(where / name) for name in made]


@pytest.fixture(scope="module")
def record(folders: list[str], tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Of hostile texts, with a price."""
    from lensbench.report.build import build_report
    from lensbench.studies.specs.tokens import TokensSpec
    from lensbench.studies.tokens import run

    out = tmp_path_factory.mktemp("runs") / "tokens"
    outcome = run(TokensSpec(texts=(NASTY, MIXED), models=tuple(folders), price=2.0), out)
    build_report([out])
    return open_record(outcome.folder)


def test_pieces_are_shown_and_counted(lensbench: Program, folders: list[str]) -> None:
    done = lensbench("tokens", "I love AI", MIXED, "--models", *folders)
    assert done.status == 0
    assert "words: i | love | ai" in done.out
    assert "<0xE0> | <0xA4> | <0xAE>" in done.out
    assert "t2: मला AI आवडतो" in done.out
    assert "lost: characters that do not come back" in " ".join(done.err.split())


def test_json_says_the_same(lensbench: Program, folders: list[str]) -> None:
    done = lensbench("tokens", "I love AI", "--models", *folders, "--json")
    bytes_, words = json.loads(done.out)
    assert [piece["shown"] for piece in words["pieces"]] == ["i", "love", "ai"]
    assert (words["n_tokens"], words["tokens_per_word"], words["n_lost_case"]) == (3, 1.0, 3)
    assert "".join(piece["shown"] for piece in bytes_["pieces"]) == "I love AI"


def test_hostile_and_right_to_left_text_stays_in_its_lines(
    lensbench: Program, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lensbench("tokens", NASTY, RTL, "--models", *folders)
    assert done.status == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(done.out)
    assert "[bold]x[/bold]" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "text 1: the text is empty"),
        (("a", "--price", "2"), "it has no effect without --out"),
        (("a", "--out", "x", "--json"), "it has no effect with --out"),
        (("a", "--file", "no.txt"), "there is no such file"),
        (("--file", "empty.txt"), "empty.txt: it is empty"),
        (("x" * 100_001,), "text 1: it has 100,001 characters. At most 100,000 are taken."),
        (("a", "--file", "latin1.txt"), "line 1 is not UTF-8 (byte 0xe9)"),
    ],
)
def test_bad_input_says_what_is_wrong(
    lensbench: Program,
    folders: list[str],
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    assert "a quote may be missing" not in lensbench("tokens", "x" * 100_001, "--models", "m").err
    Path("latin1.txt").write_bytes("é".encode("latin-1"))
    done = lensbench("tokens", *arguments, "--models", folders[0])
    assert done.status == 2
    assert message in " ".join(done.err.split())


def test_a_model_that_stands_twice_or_is_none_is_refused(
    lensbench: Program, folders: list[str]
) -> None:
    twice = lensbench("tokens", "a", "--models", folders[0], folders[0])
    assert (twice.status, "stands twice" in twice.err) == (2, True)
    none = lensbench("tokens", "a", "--models", "smolm2-135m")
    assert (none.status, "Did you mean smollm2-135m" in none.err) == (2, True)


@pytest.mark.parametrize("more", [(), ("-o", "runs")])
def test_what_is_wrong_with_texts_and_with_models_is_said_at_once(
    lensbench: Program, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = lensbench("tokens", "", "a\0b", "--models", "smolm2-135m", "nobody", *more)
    assert (done.status, done.out) == (2, "")
    said = " ".join(done.err.split())
    for one in ("text 1: the text is empty", "text 2:", "Did you mean smollm2-135m", "nobody"):
        assert one in said
    assert not Path("runs").exists()


def test_a_record_holds_every_language_and_what_it_costs(record: Record) -> None:
    gaps = record.table("gaps")
    assert gaps["language"].nunique() == 45
    english = gaps[gaps["language"] == "en"]
    assert set(english["gap"]) == {1.0}
    costs = record.table("token_costs")
    assert costs["context_ratio"].isna().all()  # no config.json says it
    by_hand = costs["tokens_per_page"] * 2 / 1e6
    assert costs["price_per_page"].tolist() == pytest.approx(by_hand.tolist())
    fates = record.table("script_fates").set_index(["model", "script"])
    claim = fates.loc[[("bytes", "Devanagari")]].iloc[0]
    assert claim["single_bytes_share"] == 1  # trained on English alone: the claim holds


def test_the_same_run_again_changes_nothing(record: Record, folders: list[str]) -> None:
    from lensbench.studies.specs.tokens import TokensSpec
    from lensbench.studies.tokens import run

    before = {path: path.read_bytes() for path in record.folder.glob("*.parquet")}
    run(TokensSpec(texts=(NASTY, MIXED), models=tuple(folders), price=2.0), record.folder)
    assert {path: path.read_bytes() for path in before} == before


def test_the_report_escapes_and_judges(record: Record) -> None:
    text = (record.folder / "report.md").read_text(encoding="utf-8")
    assert '"every Devanagari character becomes three byte tokens" holds' in text
    assert "fails: none does" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "<script>" not in text
    page = (record.folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert (record.folder / "figures" / "scripts.svg").exists()


def test_a_text_over_the_context_is_counted_whole_and_said(
    lensbench: Program, tmp_path: Path
) -> None:
    tokenizers.wordpiece("[UNK]", "i", "love", "ai").hf.save_pretrained(tmp_path / "short")
    config = {"model_type": "bert", "max_position_embeddings": 4, "num_hidden_layers": 1}
    (tmp_path / "short" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = lensbench("tokens", "i love ai " * 2, "--models", tmp_path / "short")
    assert done.status == 0
    assert "t1: 6 tokens are more than the 4 of short" in done.err
    assert "short: i | love | ai | i | love | ai" in done.out


def test_one_call_in_python(folders: list[str]) -> None:
    result = lb.tokens("I love AI", folders)
    assert result.to_pandas()["n_tokens"].tolist()[1] == 3
    assert "WordPiece" in repr(result)
    with pytest.raises(lb.InputProblems, match="Give at least 1"):
        lb.tokens("a", [])
