"""Text that would like to be obeyed, through every verb: no page, sheet or terminal does."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

from lensbench.records.open import find_records
from tests.harness.browser import chromium
from tests.harness.files import write_csv, write_jsonl
from tests.harness.program import Done
from tests.harness.tiny import TINY, save, tokenizer
from tests.harness.tiny_bert import WORDS

TAGS = (
    "<img src=x onerror=window.pwned=1><script>window.pwned=1</script><svg onload=window.pwned=1>"
)
SAYS = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\u2066\u200b\b\x7f"
LINKS = "[a](javascript:window.pwned=1) ![a](x) `a` | b || c $d$ </td></script><!-- &lt;"
HOSTILE = f"=cmd|'/C calc'!A0 {TAGS} {SAYS} {LINKS}"
STARTS = ("=", "+", "-", "@", "\t", "\r", "'=", "\n=")  # of cells that a spreadsheet obeys
BAD_NAME = "=m<img src=x onerror=window.pwned=1>\x1b[31m\u202e"  # of a folder: it has no slash
OTHER_NAME = "\tn<svg onload=window.pwned=1>|`$x$"
OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)


class Ran(NamedTuple):
    """What every verb said, and where they wrote."""

    place: Path
    said: dict[str, Done]
    inputs: frozenset[Path]


def texts() -> Iterator[str]:
    """One hostile text after the other, each beginning otherwise."""
    for start in STARTS:
        yield f"{start}{HOSTILE}"


def write_inputs(place: Path, bert: str) -> None:
    for name in (BAD_NAME, OTHER_NAME):
        folder = save(TINY["llama3"], place / name, {"max_position_embeddings": 4096})
        tokenizer("bytes+bos").save_pretrained(folder)
    asked = [
        {
            "id": f"{text[:60]}{i}",
            "relation": f"{text[:60]}",
            "prompt": text,
            "answer": f"{text[:40]}",
            "category": f"{STARTS[i % 2]}{TAGS}",
        }
        for i, text in enumerate(texts())
    ]
    write_csv(place / f"{BAD_NAME}.csv", asked)
    write_csv(place / "asked.csv", [{"id": r["id"], "prompt": r["prompt"]} for r in asked])
    broken = [{"id": "nul", "prompt": "a\0b"}, {"id": "long", "prompt": "=" * 1_000_000}]
    write_jsonl(place / "broken.jsonl", [*broken, {"id": "lone", "prompt": "a\ud800b"}])
    sentences = itertools.islice(itertools.permutations(WORDS.split(), 4), 0, 900, 37)
    rows = [
        {
            "id": f"{STARTS[i % 8]}{TAGS}{i}",
            "instruction": f"{STARTS[i % 8]}{' '.join(words)}{TAGS}{SAYS}",
            "response": f"{STARTS[-i % 8]}{LINKS}{' '.join(reversed(words))}{SAYS}",
            "group": f"{STARTS[i % 8]}{i}",
        }
        for i, words in enumerate(sentences)
    ]
    write_csv(place / "pairs.csv", rows)
    write_csv(place / "documents.csv", [{"id": r["id"], "text": r["instruction"]} for r in rows])
    write_csv(
        place / "labelled.csv", [{"id": "q", "question": HOSTILE, "document_id": rows[0]["id"]}]
    )
    (place / f"{BAD_NAME}.md").write_text(f"# {HOSTILE}\n\n{HOSTILE}\n\n## =1+1\n\n{TAGS}\n")
    analysis = place / f"001_{BAD_NAME}"
    analysis.mkdir()
    quoted = json.dumps(BAD_NAME)
    models = json.dumps([BAD_NAME, OTHER_NAME])
    prompts = json.dumps(str(place / f"{BAD_NAME}.csv"))
    (analysis / "analysis.toml").write_text(f"models = {models}\nprompts = {prompts}\n")
    broken_analysis = place / "002_broken"
    broken_analysis.mkdir()
    (broken_analysis / "analysis.toml").write_text(
        f"{json.dumps(HOSTILE)} = {quoted}\nkind = {quoted}\n"
    )
    for name, content in {"config.json": {HOSTILE: HOSTILE, "model_type": HOSTILE}}.items():
        (place / "strange").mkdir()
        (place / "strange" / name).write_text(json.dumps(content))


def commands(place: Path, bert: str) -> list[list[str]]:
    """Each verb in turn; they build on each other."""
    one, two, prompts = BAD_NAME, OTHER_NAME, f"{BAD_NAME}.csv"
    few = ["--max-new-tokens", "4", "--bits", "32"]
    adapter = f"a{BAD_NAME}"
    return [
        ["models"],
        ["pull", HOSTILE],
        ["pull", one],
        ["check", one],
        ["check", "strange"],
        ["doctor", one],
        ["lens", one, HOSTILE],
        ["lens", one, HOSTILE, "--json"],
        ["lens", HOSTILE, HOSTILE],
        ["walk", one, HOSTILE],  # too long
        ["walk", one, TAGS[:34] + SAYS[-12:], "-o", f"walk{BAD_NAME}.html"],
        ["lens", one, two, "--prompts", prompts, "--keep-residuals", "-o", "runs/two"],
        ["lens", one, "--prompts", "broken.jsonl", "-o", "runs/broken"],
        ["report", "runs/two"],
        ["diff", "RECORD0", "RECORD1", "-o", "runs/diff"],
        ["cache", one, "--prompts", prompts, "-o", "cached"],
        ["cache", "--check", "cached"],
        ["lens", one, "--cache", "cached", "-o", "runs/cached"],
        ["run", f"001_{BAD_NAME}", "-o", "runs/analysis"],
        ["run", "002_broken"],
        ["rag", "build", "documents.csv", f"{BAD_NAME}.md", "-o", "index", "--model", bert],
        ["rag", "add", "index", "pairs.csv"],
        ["rag", "info", "index"],
        ["rag", "query", "index", HOSTILE],
        ["rag", "check", "index", "labelled.csv"],
        ["infer", one, "asked.csv", "-o", "plain.csv", "--trace", "runs/plain", *few],
        ["infer", one, "asked.csv", "-o", "rag.csv", "--rag", "index", "--trace", "runs/rag", *few],
        ["infer", one, "broken.jsonl", "-o", "broken.csv", *few],
        ["report", "runs/plain"],
        ["correlate", f"{TAGS.replace('=', ':')}=runs/plain", "runs/rag", "-o", "runs/moved"],
        ["data", "to-jsonl", "pairs.csv", "-o", "pairs.jsonl"],
        ["data", "merge", "asked.csv", "plain.csv", "-o", "merged.csv"],
        ["data", "check", "pairs.jsonl"],
        ["data", "check", "broken.jsonl"],
        ["data", "split", "pairs.jsonl", "-o", "parts"],
        ["train", one, "pairs.jsonl", "-o", adapter, "--bits", "32", "--epochs", "1"],
        ["report", adapter],
        ["adapters", "show", adapter],
        ["adapters", "diff", adapter, adapter],
        ["adapters", "merge", one, adapter, "-o", f"merged{BAD_NAME}"],
        ["chat", one, "--adapter", adapter, *few],
        ["eval", one, "--adapter", adapter, "--data", "pairs.jsonl", "-o", "runs/eval", *few],
        ["import", "strange", "-o", "runs/imported"],
        ["import", "RECORD0", "-o", "runs/imported"],
        [HOSTILE],
        ["lens", f"--{HOSTILE}"],
    ]


@pytest.fixture(scope="module")
def ran(open_folder: Path, bert: Any) -> Iterator[Ran]:
    """Every verb was called."""
    place = open_folder / "hostile"
    place.mkdir()
    write_inputs(place, bert.place)
    inputs = frozenset(path for path in place.rglob("*") if path.is_file())
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for words in commands(place, bert.place):
            patch.setattr(sys, "stdin", io.StringIO(f"{HOSTILE}\n/quit\n"))
            records = find_records([place / "runs/two"]) if (place / "runs/two").exists() else []
            known = {f"RECORD{i}": str(folder) for i, folder in enumerate(records)}
            said[" ".join(words)] = called(patch, [known.get(word, word) for word in words])
    yield Ran(place, said, inputs)


def called(patch: pytest.MonkeyPatch, words: list[str]) -> Done:
    """The program in this process; what it writes is caught as a file would be."""
    from lensbench.cli import main
    from lensbench.cli.console import messages, results

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as streams:
        streams.setattr(sys, "stdout", out)
        streams.setattr(sys, "stderr", err)
        streams.setattr(results, "_file", None)
        streams.setattr(messages, "_file", None)
        patch.setattr(sys, "argv", ["lensbench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out.flush()
        err.flush()
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)]  # type: ignore[attr-defined]
    return Done(int(ended.value.code or 0), *texts)


def written(ran: Ran, suffix: str) -> list[Path]:
    """Files that verbs wrote; the model's and the adapter's own are JSON."""
    found = sorted(path for path in ran.place.rglob(f"*{suffix}") if path.is_file())
    return [path for path in found if path not in ran.inputs]


@pytest.mark.slow
def test_verbs_end_with_a_status_and_the_terminal_obeys_nothing(ran: Ran) -> None:
    for command, done in ran.said.items():
        assert done.status in (0, 1, 2), command
        for text in (done.out, done.err):
            assert "Traceback" not in text, (command, text[-2000:])
            found = OBEYED.search(text)
            assert not found, (command, found, text[max(0, found.start() - 80) :][:160])


@pytest.mark.slow
def test_most_verbs_had_something_to_do(ran: Ran) -> None:
    refused = [command for command, done in ran.said.items() if done.status == 2]
    assert len(refused) <= 13, "\n".join(f"{c[:60]!a}: {ran.said[c].err[-300:]!a}" for c in refused)
    assert len(written(ran, ".html")) >= 7
    assert len(written(ran, ".csv")) >= 20


@pytest.mark.slow
def test_no_cell_is_a_formula(ran: Ran) -> None:
    for path in written(ran, ".csv"):
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.reader(handle):
                for cell in row:
                    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or number(cell), (
                        path,
                        cell[:80],
                    )


def number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_markdown_is_literal(ran: Ran) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for path in written(ran, ".md"):
        text = path.read_text(encoding="utf-8")
        assert not OBEYED.search(text), (path, OBEYED.search(text))
        tokens = [one for token in reader.parse(text) for one in (token, *(token.children or ()))]
        html = [one.content for one in tokens if one.type in ("html_inline", "html_block")]
        assert not [content for content in html if "pwned" in content or "src=x" in content], path
        places = [str(value) for one in tokens for value in (one.attrs or {}).values()]
        assert not [place for place in places if "javascript:" in place], path


@pytest.mark.slow
def test_no_page_and_no_picture_does_anything(ran: Ran, tmp_path: Path) -> None:
    for path in written(ran, ".svg"):
        for element in ET.parse(path).iter():
            assert not element.tag.endswith(("script", "foreignObject", "img")), path
            assert not [key for key in element.attrib if key.lower().startswith("on")], path
    with chromium(tmp_path / "profile") as page:
        for path in written(ran, ".html"):
            page.get(path.as_uri())
            assert page.execute_script("return window.pwned;") is None, path
            stray = "return document.querySelectorAll('img[src=x], svg[onload], [onerror]').length"
            assert page.execute_script(stray) == 0, path
