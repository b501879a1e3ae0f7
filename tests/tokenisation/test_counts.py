"""Words, scripts, what is lost and what it costs: by hand, by brute force and by closed forms."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from lensbench.errors import InputProblems
from lensbench.prompts.scripts import count_words, script_of
from lensbench.tokenisation.gaps import cost_rows, fate_rows, gap_rows
from lensbench.tokenisation.round_trip import common_length, round_trip
from lensbench.tokenisation.size import attention_flops, size_of
from lensbench.tokenisation.texts import example_texts, given_texts, parallel_texts


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_the_longest_common_subsequence_is_that_of_brute_force(a: str, b: str) -> None:
    longest = max(
        n
        for n in range(len(a) + 1)
        for kept in itertools.combinations(a, n)
        if within("".join(kept), b)
    )
    assert common_length(a, b) == longest


def within(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)


@pytest.mark.parametrize(
    ("text", "decoded", "expected"),
    [
        ("I am", "I am", {}),
        ("I love AI", "i love ai", {"lost": 3, "lost_case": 3, "added": 3}),
        ("É", "e", {"lost": 1, "lost_case": 0, "lost_marks": 1, "added": 1}),
        ("कुक", "कक", {"lost": 1, "lost_marks": 1}),
        ("한", unicodedata.normalize("NFD", "한"), {"lost": 1, "lost_form": 1, "added": 3}),
        ("a\n  b", "a b", {"lost": 2, "lost_spaces": 2}),
        ("a ꙮ", "a \ufffd", {"lost": 1, "lost_other": 1, "added": 1}),
    ],
)
def test_what_is_lost_and_why(text: str, decoded: str, expected: dict[str, int]) -> None:
    found = round_trip(text, decoded)
    assert {name: n for name, n in found.items() if n} == {k: n for k, n in expected.items() if n}


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_parts_of_what_is_lost_add_up(text: str, decoded: str) -> None:
    found = round_trip(text, decoded)
    assert found["lost"] == sum(n for name, n in found.items() if name.startswith("lost_"))
    assert min(found.values()) >= 0
    assert len(text) - found["lost"] + found["added"] == len(decoded)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I loooove AIs!!!", 3),
        ("मला AI आवडतो", 3),
        ("ሰው፡ልጆች፡ሁሉ።", 3),
        ("  ", 0),
        ("人人生而自由", None),
    ],
)
def test_words_stand_between_white_space(text: str, words: int | None) -> None:
    assert count_words(text) == words


def test_scripts_are_those_of_unicode() -> None:
    assert [script_of(c) for c in "aжम人カ한"] == [
        *("Latin", "Cyrillic", "Devanagari", "Han", "Katakana", "Hangul")
    ]
    assert [script_of(c) for c in " 1,।\u0301\u200d😀"] == [None] * 7
    assert script_of("ᚠ") == "other"


def test_the_parallel_text_is_whole_in_every_language() -> None:
    texts = parallel_texts()
    languages = {text.language: text.script for text in texts}
    assert (len(languages), len(set(languages.values()))) == (45, 24)
    assert next(iter(languages)) == "en"
    assert set(Counter((t.language, t.article) for t in texts)) == {
        (language, article) for language in languages for article in range(1, 31)
    }
    assert len(texts) == 45 * 30
    assert all(text.text.strip() and unicodedata.is_normalized("NFC", text.text) for text in texts)
    for text in texts:  # what is written in the script that is named
        found = Counter(filter(None, map(script_of, text.text)))
        own = {"Japanese": {"Han", "Hiragana", "Katakana"}}.get(str(text.script), {text.script})
        assert sum(found[str(script)] for script in own) > 0.99 * found.total(), text.id


def test_articles_say_the_same_in_every_language() -> None:
    """As long, beside the language's median, as in English: none is cut or stands elsewhere."""
    sizes = pd.DataFrame([(t.language, t.article, len(t.text)) for t in parallel_texts()])
    table = sizes.pivot(index=1, columns=0, values=2)
    ratio = table.div(table["en"], axis=0)
    assert ratio.div(ratio.median()).stack().between(0.45, 1.95).all()


def test_examples_are_texts_that_may_be_given() -> None:
    examples = example_texts()
    assert [t.text for t in examples[:3]] == ["I love AI", "I loooove AIs!!!", "मला AI आवडतो"]
    assert [t.text for t in given_texts([t.text for t in examples])] == [t.text for t in examples]


def test_all_that_is_wrong_with_texts_is_said_at_once() -> None:
    with pytest.raises(InputProblems) as caught:
        given_texts(["fine", " \n", "a\ud800", "x" * 100_001, "a\0"])
    said = [str(problem) for problem in caught.value.problems]
    assert [one.split(":")[0] for one in said] == ["text 2", "text 3", "text 4", "text 5"]
    for problem, what in zip(
        said, ("empty", "surrogate", "it has 100,001 characters", "NUL"), strict=True
    ):
        assert what in problem


def counts_of(tokens: dict[str, list[int]], script: str = "Latin") -> pd.DataFrame:
    rows = [
        {
            **{"model": "m", "language": language, "script": script, "article": article},
            **{"n_tokens": n, "n_bytes": 10, "n_characters": 8, "n_solid": 8, "n_words": 2},
            **dict.fromkeys(("n_unknown", "n_unread", "n_byte_tokens", "n_lost"), 0),
        }
        for language, own in tokens.items()
        for article, n in enumerate(own, start=1)
    ]
    return pd.DataFrame(rows)


def test_a_gap_is_the_ratio_of_the_whole_texts_and_a_script_s_leaves_english_out() -> None:
    base = list(range(10, 22))
    rows = list(gap_rows(counts_of({"en": base, "xx": [2 * n for n in base], "yy": base[::-1]})))
    gaps = {row["language"]: row for row in rows}
    assert (gaps["en"]["gap"], gaps["xx"]["gap"]) == (1.0, 2.0)
    assert (gaps["xx"]["gap_low"], gaps["xx"]["gap_high"]) == (2.0, 2.0)  # in every article
    assert gaps["yy"]["gap"] == 1.0
    assert gaps["yy"]["gap_low"] < 1 < gaps["yy"]["gap_high"]
    assert (gaps[None]["gap"], gaps[None]["n_languages"]) == (1.5, 2)


def test_the_interval_of_a_gap_covers_the_truth_over_drawn_articles() -> None:
    """Articles of random length, each token count off by a factor: the long-run ratio is 3."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(20):
        base = rng.integers(20, 200, 30)
        own = rng.poisson(3 * base)
        counts = counts_of({"en": base.tolist(), "xx": own.tolist()})
        gap = next(row for row in gap_rows(counts) if row["language"] == "xx")
        hits += gap["gap_low"] <= 3 <= gap["gap_high"]
    assert hits >= 16  # of 20; of 95 % fewer come once in 300 times


def test_shares_of_characters_are_over_articles() -> None:
    rows = [
        {
            **{"model": "m", "script": "S", "article": article, "language": "xx"},
            **{"n_characters": 10, "n_whole": 4, "n_single_bytes": 6},
            **{"n_split": 0, "n_unknown": 0, "n_dropped": 0},
        }
        for article in range(12)
    ]
    (row,) = fate_rows(pd.DataFrame(rows))
    assert (row["n_characters"], row["whole_share"], row["single_bytes_share"]) == (120, 0.4, 0.6)
    assert row["single_bytes_share_low"] < 0.6 < row["single_bytes_share_high"]


def test_attention_grows_with_the_square_and_within_a_window_with_the_length() -> None:
    full = {"attention_width": 64, "windows": [None, None]}
    assert attention_flops(10, full) == 2 * 4 * 10 * 10 * 64
    assert attention_flops(100, {"attention_width": 64, "windows": [16]}) == 4 * 100 * 16 * 64
    assert attention_flops(10, {"attention_width": None, "windows": None}) is None


@pytest.mark.parametrize(
    ("kind", "options", "n_ctx", "width", "windows"),
    [
        ("bert", {"max_position_embeddings": 512}, 512, 64, [None, None]),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512, 64, [None, None]),
        ("xlm-roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512, 64, [None] * 2),
        ("mpnet", {"max_position_embeddings": 514, "pad_token_id": 1}, 512, 64, [None, None]),
        ("mistral", {"sliding_window": 16}, 4096 * 32, 64, [16, 16]),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, 32768, 64, [None, None]),
        ("gpt_neo", {"attention_types": [[["global", "local"], 1]]}, 2048, 64, [None, 256]),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, 32768, None, None),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, 128_000, None, None),
    ],
)
def test_sizes_are_those_of_each_familys_attention(
    kind: str,
    options: dict[str, Any],
    n_ctx: int,
    width: int | None,
    windows: list[int | None] | None,
    tmp_path: Path,
) -> None:
    """What grows otherwise than with the square of a text has no such cost."""
    config = AutoConfig.for_model(
        kind, num_hidden_layers=2, hidden_size=64, num_attention_heads=4, head_dim=16, **options
    )
    config.save_pretrained(tmp_path)
    assert size_of(tmp_path) == {"n_ctx": n_ctx, "attention_width": width, "windows": windows}


def test_latent_attention_is_as_wide_as_its_queries_and_values(tmp_path: Path) -> None:
    """4 heads: queries and keys 24 + 8 wide, values 16 (DeepSeek-V3's config calls 8 head_dim)."""
    sizes = {"qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 16}
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4}
    AutoConfig.for_model("deepseek_v3", **shape, **sizes).save_pretrained(tmp_path)
    facts = size_of(tmp_path)
    n, products = 10, 2 * 10 * 10 * 4 * (32 + 16)
    assert attention_flops(n, facts) == products


def test_the_price_of_a_page_by_hand() -> None:
    counts = counts_of({"en": [100] * 10, "xx": [300] * 10})
    facts = {"m": {"n_ctx": 2000, "attention_width": 1, "windows": [None]}}
    rows = {row["language"]: row for row in cost_rows(counts, facts, page_words=20, price=4.0)}
    assert rows["xx"]["n_tokens"] == 3000
    assert rows["xx"]["context_ratio"] == 1.5
    assert rows["xx"]["attention_ratio"] == 9
    assert rows["xx"]["tokens_per_page"] == 3000  # 20 English words: one page
    assert rows["xx"]["price_per_page"] == pytest.approx(0.012)
    free = next(iter(cost_rows(counts, facts, 20, None)))
    assert free["price_per_page"] is None
