"""`lensbench walk` as a user runs it: where the page goes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.pages import Page
from tests.harness.program import Program, words
from tests.harness.tiny import Case

NASTY = "\x1b[31mred\x07 [bold]x[/bold] \u202e</script><b onclick=x> is"


def test_a_page_is_written_and_named(lensbench: Program, gpt2: Case, tmp_path: Path) -> None:
    done = lensbench("walk", gpt2.folder, NASTY, "-o", "new/cat.html")
    assert done.status == 0
    assert done.out == "new/cat.html\n"
    assert "MB; open it in any browser" in done.err
    page = Page((tmp_path / "new" / "cat.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2
    assert page.tags.count("b") == page.tags.count("a")  # one of each in the list of steps
    assert page.data["text"] == NASTY.replace("\x1b", "\\u001b").replace("\x07", "\\u0007").replace(
        "\u202e", "\\u202e"
    )
    again = lensbench("walk", gpt2.folder, NASTY, "-o", "new/cat.html")
    assert again.status == 2
    assert "new/cat.html is there already. Give another name, or say --force." in again.said
    assert lensbench("walk", gpt2.folder, NASTY, "-o", "new/cat.html", "--force").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MODEL",), "TEXT: it is missing. Add it."),
        (("MODEL", ""), "TEXT: it is empty. Give a sentence."),
        (("MODEL", "a\ud800b"), "TEXT: there is half a character"),
        (("MODEL", "long " * 99), "and the page has room for 64. Give a sentence or two of it."),
        (("MODEL", "x", "-o", "."), "--out: it is a folder. Give a file in it, such as walk.html"),
        (("MODEL", "x", "-o", "file/walk.html"), "is no folder. Give another path."),
        (("smolm2-135m", "x"), "Did you mean smollm2-135m"),
        (("smolm2-135m", "x", "-o", "."), "2 problems with the input: - --out: it is a folder."),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    lensbench: Program, gpt2: Case, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("")
    given = [gpt2.folder if word == "MODEL" else word for word in arguments]
    done = lensbench("walk", *given)
    assert done.status == 2
    assert done.out == ""
    assert said in words(done.err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
