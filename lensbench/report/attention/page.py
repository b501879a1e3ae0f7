"""The page of an attention record: maps of scores, the head view, and what follows from both."""

from __future__ import annotations

from collections.abc import Mapping

from lensbench.records.schema.attention import READ
from lensbench.report.attention.further import SENTENCES, TITLES
from lensbench.report.attention.head_view import Kept, every_picker, head_view, weighting_picker
from lensbench.report.kit.page import Chart, Page, Picker, chart
from lensbench.report.kit.views import Map, Nothing, View


def heads_page(
    name: str,
    kept: Kept | None,
    maps: Mapping[tuple[str, str, str], Map],
    views: Mapping[str, View],
    conditions: Mapping[str, str] = READ,
) -> Page:
    """One map, of the condition, weighting and score that are picked; the heads of kept patterns.

    `kept`: those, if there are any. `maps` are by condition, weighting and score; `views` what
    follows from them, by their names; `conditions` says what the conditions are.
    """
    weightings = {weighting for _, weighting, _ in maps}
    weighting = weighting_picker(weightings.union(kept.weightings if kept else ()))
    looks = list(head_view(kept, weighting)) if kept else []
    sentence = "Click a head to see it below." if looks else ""
    charts = [_scores(maps, weighting, sentence, conditions), *looks]
    charts += [
        chart(TITLES[key], SENTENCES[key], (), lambda own=own: own) for key, own in views.items()
    ]
    told = "What each attention head looks at: block by head, means over prompts, 0 to 1."
    return Page(f"{name}: attention heads", told, every_picker(charts), charts)


def _scores(
    maps: Mapping[tuple[str, str, str], Map],
    weighting: Picker,
    sentence: str,
    meanings: Mapping[str, str],
) -> Chart:
    conditions, weightings, scores = (dict.fromkeys(part) for part in zip(*maps, strict=True))
    pickers = (
        Picker("Score", {score: score.replace("_", " ") for score in scores}),
        Picker("Condition", {one: meanings[one] for one in conditions}),
        weighting,
    )

    def view(score: str, condition: str, weighting: str) -> View:
        if weighting not in weightings:
            return Nothing("The run was not asked for this weighting.")
        nothing = Nothing("No query has such a token to look at.")
        return maps.get((condition, weighting, score), nothing)

    return chart("Heads", sentence, pickers, view)
