"""The report of tokenizers: pieces of texts, what other languages take and cost, what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown, markdown_cell, visible
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dots, Line
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate, cells_of, of_record

CLAIMED = "Devanagari"  # "every Devanagari character becomes three byte tokens"
ENGLISH = "en"
MOST_UNREAD = 0.05  # of a text's characters: with more, its tokens are not those of the text
_SHOWN = ("n_tokens", "tokens_per_word", "characters_per_token", "bytes_per_token")
_COUNTED = ("n_unknown", "n_byte_tokens", "n_lost", "n_added")
_MOST_PIECES = 60


def tokens(record: Record, name: str) -> Section:
    """All models of a comparison."""
    made = tables(record)
    views = figures(made)
    findings = list(_findings(made))
    n_languages = made["languages"].frame["language"].nunique()
    text, limitations = written(
        "tokens",
        tables=made,
        figures=views,
        findings=findings,
        claim=CLAIMED,
        n_languages=n_languages,
        n_scripts=made["scripts"].frame["script"].nunique(),
        price=record.settings["price"],
        page_words=record.settings["page_words"],
        most_unread=MOST_UNREAD,
        side_by_side=side_by_side,
        single_bytes=single_bytes(made["fates"]),
        some_costs=some_costs(made),
    )
    charts = [one for own in views.values() for one in own]
    return Section(
        title="What tokenizers make of text",
        tables=made,
        text=text,
        headline=findings[0],
        limitations=limitations,
        figures={key: partial(to_svg, panels, own, 1) for key, own in views.items()},
        page=lambda: Page("Tokenizers", "Language by language.", (), plain_charts(charts, "")),
        cover="scripts",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    gaps = record.table("gaps")
    languages = gaps[gaps["language"].notna()].reset_index(drop=True)
    scripts = gaps[gaps["language"].isna()].reset_index(drop=True)
    fates = _with_estimates(record.table("script_fates"), "single_bytes_share", record)
    return catalogue(
        {
            "models": ("Tokenizers", _models(record)),
            "texts": ("The texts", _texts(record)),
            "pieces": ("Pieces", _pieces(record)),
            "claim": (f"How {CLAIMED} characters stand", _claim(fates)),
            "scripts": ("Tokens by script", _with_gaps(scripts).drop(columns=["language", "name"])),
            "languages": ("Tokens by language", _with_gaps(languages).drop(columns="n_languages")),
            "fates": ("What becomes of the characters of a script", fates),
            "lost": ("What does not come back", _lost(record.table("tokens"), languages)),
            "costs": ("What the whole text costs", _costs(record.table("token_costs"), languages)),
        }
    )


def _models(record: Record) -> pd.DataFrame:
    rows = [
        {
            "model": model,
            "tokenizer": facts["kind"],
            "vocabulary": facts["d_vocab"],
            "context_tokens": facts["n_ctx"],
            "source": facts["source"],
        }
        for model, facts in record.model["tokenizers"].items()
    ]
    order = {model: i for i, model in enumerate(record.table("tokens")["model"].unique())}
    frame = pd.DataFrame(rows).sort_values("model", key=lambda names: names.map(order))
    return frame.reset_index(drop=True).astype({"context_tokens": "Int64"})


def _texts(record: Record) -> pd.DataFrame:
    """One row per given text x model, with the text itself."""
    own = record.table("tokens")
    own = own[own["language"].isna()]
    texts = record.table("token_texts").set_index("text_id")["text"]
    words = own["n_words"].where(own["n_words"] > 0)
    some = own["n_tokens"].where(own["n_tokens"] > 0)
    frame = own.assign(
        text=own["text_id"].map(texts),
        tokens_per_word=own["n_tokens"] / words,
        characters_per_token=own["n_characters"] / some,
        bytes_per_token=own["n_bytes"] / some,
    )
    order = {text: i for i, text in enumerate(texts.index)}
    frame = frame.sort_values("text_id", key=lambda ids: ids.map(order), kind="stable")
    columns = ["text_id", "model", *_SHOWN, *_COUNTED, "text", "decoded"]
    return frame[columns].reset_index(drop=True)


def _pieces(record: Record) -> pd.DataFrame:
    """One row per given text x model: its pieces, a bar between two."""
    rows = []
    pieces = record.table("pieces")
    for text_id in record.table("token_texts")["text_id"]:
        for model, own in pieces[pieces["text_id"] == text_id].groupby("model", sort=False):
            shown = [visible(piece) for piece in own["shown"][:_MOST_PIECES]]
            more = f" … and {len(own) - _MOST_PIECES} more" if len(own) > _MOST_PIECES else ""
            rows.append({"text_id": text_id, "model": model, "pieces": " ¦ ".join(shown) + more})
    return pd.DataFrame(rows, columns=["text_id", "model", "pieces"])


def _with_gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    """Numbers with an interval as one Estimate each."""
    made = gaps.copy()
    for name, why in (("gap", ""), ("tokens_per_word", "no spaces between words")):
        made[name] = _estimates(gaps, name, gaps["n_articles"], why)
        made = made.drop(columns=[f"{name}_low", f"{name}_high"])
    return made


def _with_estimates(frame: pd.DataFrame, name: str, record: Record) -> pd.DataFrame:
    n = int(record.table("gaps")["n_articles"].max())
    made = frame.copy()
    made[name] = _estimates(frame, name, pd.Series(n, frame.index), "")
    return made.drop(columns=[f"{name}_low", f"{name}_high"])


def _estimates(frame: pd.DataFrame, name: str, n: pd.Series, why: str) -> pd.Series:
    cells = zip(*cells_of(frame, name), n, strict=True)
    made = [
        of_record(ends, count, why, f"{count} articles, too few or too alike")
        for *ends, count in cells
    ]
    return pd.Series(made, frame.index, dtype=object)


def _claim(fates: pd.DataFrame) -> pd.DataFrame:
    """The fates of the characters that the claim is about, and what becomes of it."""
    own = fates[fates["script"] == CLAIMED].drop(columns="script").reset_index(drop=True)
    return own.assign(verdict=[_verdict(share) for share in own["single_bytes_share"]])


def _verdict(share: Estimate) -> str:
    """Of "every": one character that is otherwise refutes it."""
    if share.value == 1:
        return "holds for every one of these"
    return "fails: none does" if share.value == 0 else "fails: some do"


def _lost(counts: pd.DataFrame, languages: pd.DataFrame) -> pd.DataFrame:
    """Over the given texts, and over articles: English, others that are read, and not read."""
    unread: dict[Any, float] = languages.set_index(["model", "language"])["unread_share"].to_dict()
    places = zip(counts["model"], counts["language"], strict=True)
    own = counts.assign(of=[_group(place, unread) for place in places])
    lost = [name for name in own if str(name).startswith("n_lost")]
    sums = own.groupby(["model", "of"], sort=False)
    frame = sums[["n_characters", *lost, "n_added"]].sum()
    whole = own.assign(whole=(own["n_lost"] == 0) & (own["n_added"] == 0))
    frame["exact_share"] = whole.groupby(["model", "of"], sort=False)["whole"].mean()
    return frame.reset_index()


def _group(place: tuple[str, str], unread: Mapping[Any, float]) -> str:
    """What a text counts as."""
    if place not in unread:
        return "the texts above"
    if place[1] == ENGLISH:
        return "English articles"
    return "other articles" if unread[place] <= MOST_UNREAD else "articles not read"


def _costs(costs: pd.DataFrame, languages: pd.DataFrame) -> pd.DataFrame:
    """With the language's name, how much of it is not read, and FLOPs in thousands of millions."""
    named = costs.merge(languages[["model", "language", "name", "unread_share"]])
    named.insert(4, "attention_gflops", named.pop("attention_flops") / 1e9)
    named.insert(1, "name", named.pop("name"))
    return named


def single_bytes(fates: Table) -> pd.DataFrame:
    """A row a script, by each model a column: characters whose bytes are tokens of their own."""
    rows: dict[str, dict[str, Any]] = {}
    for one in fates.frame.to_dict("records"):
        row = {"script": one["script"], "n_characters": one["n_characters"]}
        own = rows.setdefault(one["script"], row)
        own[f"{markdown_cell(one['model'])}_share"] = one["single_bytes_share"]
    return pd.DataFrame(rows.values())


def side_by_side(table: Table, key: str, *others: str) -> pd.DataFrame:
    """A row a language or script, the gap by each model a column; what is not read says so."""
    rows: dict[str, dict[str, Any]] = {}
    for one in table.frame.to_dict("records"):
        row = rows.setdefault(one[key], {key: one[key]} | {name: one[name] for name in others})
        row[markdown_cell(one["model"])] = _read(one)
    return pd.DataFrame(rows.values())


def _read(row: Mapping[Any, Any]) -> Estimate:
    """Its gap, where the tokenizer reads the text."""
    if row["unread_share"] <= MOST_UNREAD:
        gap: Estimate = row["gap"]
        return gap
    return Estimate(None, None, None, row["gap"].n, row["gap"].n_clusters, "not read")


def figures(made: dict[str, Table]) -> dict[str, list[Dots]]:
    """Views by the name of their figure."""
    axis = Axis("tokens of the same articles, English = 1")
    found = {}
    for name, key in (("scripts", "script"), ("languages", "name")):
        frame = made[name].frame
        models = list(frame["model"].unique())
        cells = {(row[key], row["model"]): _read(row) for row in frame.to_dict("records")}
        rows = [
            Line(str(one), [cells[one, model] for model in models]) for one in frame[key].unique()
        ]
        rows.sort(key=_largest)
        found[name] = [Dots(axis, rows, f"Tokens by {name[:-1]}", models)]
    return found


def _largest(row: Line) -> float:
    return max(point.value or 0.0 for point in row.points)


def _findings(made: dict[str, Table]) -> Iterator[str]:
    """What became of each model, a sentence each."""
    for model in made["models"].frame.to_dict("records"):
        yield _gap_finding(model, made["languages"].frame)
    for row in made["claim"].frame.to_dict("records"):
        share = numbers.estimate(row["single_bytes_share"], "share")
        yield markdown(
            f'{row["model"]}: "every {CLAIMED} character becomes three byte tokens" '
            f"{row['verdict']}. Of {row['n_characters']:,} characters {share} do, "
            f"{numbers.number(row['whole_share'], 'share')} stand in one token, "
            f"{numbers.number(row['split_share'], 'share')} are split otherwise, "
            f"{numbers.number(row['unknown_share'], 'share')} are unknown and "
            f"{numbers.number(row['dropped_share'], 'share')} have no token"
        )


def _gap_finding(model: Mapping[Any, Any], languages: pd.DataFrame) -> str:
    own = languages[(languages["model"] == model["model"]) & (languages["language"] != ENGLISH)]
    read = own[own["unread_share"] <= MOST_UNREAD]
    unread = len(own) - len(read)
    said = f"{model['model']} ({model['tokenizer']}, {model['vocabulary']:,} entries): "
    if read.empty:
        return markdown(f"{said}none of {len(own)} languages besides English is read")
    values = read["gap"].map(lambda gap: gap.value)
    most = read.loc[values.idxmax()]
    said += (
        f"a language takes {numbers.number(float(values.median()))} times the tokens of English "
        f"(median of {len(read)}), {most['name']} {numbers.estimate(most['gap'])} times"
    )
    return markdown(said + (f"; {unread} more are not read" if unread else ""))


def some_costs(made: dict[str, Table]) -> pd.DataFrame:
    """Rows for the text: of each model English, the middle and the dearest language it reads."""
    costs = made["costs"].frame
    rows = []
    for _, own in costs[costs["unread_share"] <= MOST_UNREAD].groupby("model", sort=False):
        ordered = own.sort_values("n_tokens", kind="stable")
        picked = ordered.iloc[[len(own) // 2, -1]]
        english = own[own["language"] == ENGLISH]
        rows.append(pd.concat([english, picked]).drop_duplicates("language"))
    shown = pd.concat(rows).drop(columns=["language", "unread_share"])
    return shown.dropna(axis="columns", how="all")
