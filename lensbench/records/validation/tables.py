"""The tables of a lens record together: keys, references and completeness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensbench.errors import Problem
from lensbench.prompts.prompt import LINKS
from lensbench.records.lens.kind import LensKind
from lensbench.records.lens.record import LensRecord
from lensbench.records.validation.columns import Source, wrong_rows

SITES = ("embed", "resid_mid", "resid_post")
_KEY = ["prompt_id", "lens", "site", "layer", "position"]
_SLACK = 1e-3
_MOST_NAMED = 5
_AGAIN = "Write each row once."


@dataclass(frozen=True)
class Written:
    """The tables of a lens record as somebody wrote them, and where each is."""

    n_layers: int
    kinds: Mapping[str, LensKind]
    prompts: pd.DataFrame
    lens: pd.DataFrame
    sources: Mapping[str, Source]
    d_vocab: int | None = None
    milestones: pd.DataFrame | None = None  # None: they are made of the rest
    # False: lensbench wrote it. It may read some layers only, of a cache, and skip a prompt that
    # others belong to, which its problems say.
    foreign: bool = True
    main: str = ""  # the lens of the headlines, where it is another than `final` or the first

    @classmethod
    def by(cls, record: LensRecord) -> Written:
        """A finished record's: of its tables what `broken` asks for, no more."""
        sources = {name: Source(f"{record.folder}/{name}.parquet") for name in record.tables}
        return cls(
            record.n_layers,
            {lens: record.lens_kind(lens) for lens in record.lenses},
            record.table("prompts", ["prompt_id", *LINKS]),
            record.table("lens", [*_KEY, "depth", "is_last"]),
            sources,
            record.manifest["model"].get("d_vocab"),
            record.table("milestones", ["prompt_id", "lens"]),
            foreign=record.imported,
            main=record.main_lens,
        )


def broken(written: Written) -> list[Problem]:
    """Rows that are missing, stand twice, or are of nothing that there is."""
    return [
        *_keys(written),
        *_places(written),
        *_references(written),
        *_complete(written),
        *_milestone_rows(written),
    ]


def _keys(written: Written) -> Iterator[Problem]:
    prompts, lens = written.prompts, written.lens
    twice = prompts["prompt_id"].duplicated(keep="first") & prompts["prompt_id"].notna()
    what = "the prompt_id stands twice"
    yield from wrong_rows(written.sources["prompts"], twice, what, "Give each prompt an id.")
    what = f"a row of the same {', '.join(_KEY)} stands above"
    twice = lens.duplicated(_KEY, keep="first")
    yield from wrong_rows(written.sources["lens"], twice, what, _AGAIN)
    ends = lens[lens["is_last"].eq(True)].groupby("prompt_id")["position"]
    several = ends.nunique(dropna=False)
    if names := [str(name) for name in several.index[several > 1]]:
        what = f"is_last is true at more than one position of prompt {_named(names)}"
        yield Problem(written.sources["lens"].name, what, "Each prompt has one last position.")


def _places(written: Written) -> Iterator[Problem]:
    """Layers, sites, depths and names of lenses that there are not."""
    lens, source, n = written.lens, written.sources["lens"], written.n_layers
    layer = lens["layer"].astype(float)
    yield from wrong_rows(
        source, layer > n, f"layer is above n_layers ({n})", "Layer i is after block i - 1."
    )
    known = lens["site"].isin(SITES)
    yield from wrong_rows(source, ~known & lens["site"].notna(), "no such site", f"Use {SITES}.")
    embed = (lens["site"] == "embed") != (layer == 0)
    what = "the site embed is layer 0, and no other"
    yield from wrong_rows(source, embed & known, what, "Mend site or layer.")
    depth = (layer - 0.5 * (lens["site"] == "resid_mid")) / n
    off = (lens["depth"].astype(float) - depth).abs() > _SLACK
    yield from wrong_rows(source, off, "depth is not layer / n_layers", "Leave depth out.")
    strange = lens["lens"].notna() & ~lens["lens"].isin(list(written.kinds))
    what = f"a lens that the manifest does not name ({_named(written.kinds)})"
    yield from wrong_rows(source, strange, what, "Name it in settings.lenses.")


def _references(written: Written) -> Iterator[Problem]:
    prompts, lens = written.prompts, written.lens
    ids = set(prompts["prompt_id"])
    strange = ~lens["prompt_id"].isin(ids)
    yield from wrong_rows(
        written.sources["lens"], strange, "no such prompt_id in prompts", "Add the prompt."
    )
    for link in LINKS:
        strange = prompts[link].notna() & ~prompts[link].isin(ids) & written.foreign
        what = f"{link} names no prompt here"
        yield from wrong_rows(written.sources["prompts"], strange, what, "Add it or leave it out.")


def _complete(written: Written) -> Iterator[Problem]:
    """Every layer from the first block on (or the same ones) for each prompt and lens."""
    lens, source = written.lens, written.sources["lens"].name
    rows = lens[lens["is_last"].eq(True) & (lens["site"] != "resid_mid")]
    there = rows.groupby(["prompt_id", "lens"])["layer"].agg(frozenset)
    seen = frozenset().union(*there) if len(there) else frozenset()
    every = range(0 if 0 in seen else 1, written.n_layers + 1)
    wanted = frozenset(every) if written.foreign else seen | {written.n_layers}
    missing: dict[str, list[str]] = {}
    for (prompt, name), layers in zip(there.index.tolist(), there, strict=True):
        first = written.kinds[name].first_layer if name in written.kinds else 0
        if absent := [layer for layer in sorted(wanted - layers) if layer >= first]:
            what = f"layer {_named(map(str, absent))} of lens {name}"
            missing.setdefault(what, []).append(str(prompt))
    for what, names in missing.items():
        yield Problem(source, f"no row at {what} for prompt {_named(names)}", "Add these rows.")
    read: dict[str, set[Any]] = {lens: set() for lens in written.kinds} | dict(
        rows.groupby("lens")["prompt_id"].agg(set)
    )
    plain = "final" if "final" in written.kinds else next(iter(written.kinds), "")
    prompts = written.prompts
    base = prompts.loc[prompts[list(LINKS)].isna().all(axis=1), "prompt_id"]
    for name in written.kinds:
        asked = prompts["prompt_id"] if name in (plain, written.main) else base
        if absent_ids := [str(i) for i in asked if i not in read[name]]:
            what = f"lens {name} has no row at the last position of prompt {_named(absent_ids)}"
            yield Problem(source, what, "Add them, or leave the prompt out.")


def _milestone_rows(written: Written) -> Iterator[Problem]:
    """One row for each prompt and each lens that it was read by."""
    rows = written.milestones
    if rows is None:
        return
    source = written.sources["milestones"]
    twice = rows.duplicated(["prompt_id", "lens"], keep="first")
    yield from wrong_rows(source, twice, "this prompt and lens stand above", _AGAIN)
    there = set(zip(rows["prompt_id"], rows["lens"], strict=True))
    lens = written.lens[written.lens["is_last"].eq(True)]
    read = set(zip(lens["prompt_id"], lens["lens"], strict=True))
    if absent := sorted(read - there):
        named = _named(f"{prompt} ({name})" for prompt, name in absent)
        what = f"{len(absent)} of {len(read)} rows are missing: {named}"
        yield Problem(source.name, what, "Make them anew: lensbench import FOLDER --out DIR.")


def _named(names: Any) -> str:
    every = [str(name) for name in names]
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return ", ".join(every[:_MOST_NAMED]) + more
