"""The heads of a model as one call, and its result as an object that reads well in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from lensbench.attention.conditions import Text
from lensbench.attention.gate import ERROR, check_heads, gate_of_all, rows_identity
from lensbench.attention.patterns import Source
from lensbench.attention.record import (
    Reader,
    condition_texts,
    in_order,
    long_enough,
    not_kept,
    plan_readings,
    read,
    read_ones,
)
from lensbench.attention.settings import AttentionSettings, EncoderSettings
from lensbench.errors import InputProblems, Problem
from lensbench.lens.gate import Identity, require
from lensbench.lens.record import gate_prompts
from lensbench.lens.table import prompts_table
from lensbench.models.model import LensModel, require_loaded
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.encode import (
    NOTHING,
    EncodedPrompt,
    Encoder,
    Template,
    TokenText,
    encode_all,
)
from lensbench.prompts.prompt import Prompt, Prompts, as_prompts
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.attention import CONDITIONS, HEADS, PATTERNS, SCORES, WEIGHTINGS
from lensbench.records.schema.declare import Table
from lensbench.spec import nearest

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False)
class AttentionResult:
    """Scores of one model's heads: tables follow records/schema/attention.py, or encoders.py there.

    `patterns` has rows for the prompts that were to be kept; `gate` is what held of all that was
    read; `scores` is what the scores mean.
    """

    model: str
    table: pa.Table
    prompts: pa.Table
    patterns: pa.Table
    gate: list[Identity]
    problems: list[Problem]
    scores: Mapping[str, str] = field(default_factory=lambda: dict(SCORES))
    both_ways: bool = False  # each token may look at every other

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition x prompt x weighting x block x head, with a column per score."""
        return self.table.to_pandas()

    def plot(
        self, score: str = "previous_token", condition: str = "text", weighting: str = "plain"
    ) -> Figure:
        """A heat map, block x head, of a score's mean over prompts.

        Raises InputProblems for a score, condition or weighting that is not there.
        """
        from lensbench.attention.plot import head_map

        frame = self.to_pandas()
        given = {"condition": condition, "weighting": weighting}
        known = [(key, value, [*frame[key].unique()]) for key, value in given.items()]
        require_known([("score", score, [*self.scores]), *known])
        own = frame[(frame["condition"] == condition) & (frame["weighting"] == weighting)]
        title = f"{self.model}: {self.scores[score]} ({condition}, {weighting})"
        return head_map(own.groupby(["block", "head"])[score].mean().unstack(), score, title)

    def pattern(
        self, prompt_id: str, block: int, head: int, weighting: str = "plain"
    ) -> Float[np.ndarray, "query key"]:
        """A kept pattern; rows sum to 1, but for what a sink takes.

        Raises InputProblems for a prompt that was not kept, or a head that is not there.
        """
        from lensbench.attention.kept import whole

        names, sizes = (self.prompts[name].to_pylist() for name in ("prompt_id", "n_tokens"))
        n_tokens = dict(zip(names, sizes, strict=True)).get(prompt_id, 0)
        return whole(self.patterns, prompt_id, n_tokens, block, head, weighting)

    def plot_pattern(
        self, block: int, head: int, prompt_id: str | None = None, weighting: str = "plain"
    ) -> Figure:
        """A heat map, query x key, of a kept pattern; the first prompt's by default.

        Raises InputProblems as `pattern`.
        """
        from lensbench.attention.plot import pattern_map

        chosen = self._chosen(prompt_id)
        grid = self.pattern(chosen, block, head, weighting)
        prompts = self.prompts.to_pandas().set_index("prompt_id")
        title = f"{self.model}: block {block}, head {head} ({weighting})"
        return pattern_map(grid, list(prompts["tokens"][chosen]), title, self.both_ways)

    def rollout(
        self, prompt_id: str | None = None, weighting: str = "plain"
    ) -> Float[np.ndarray, "block query key"]:
        """Attention rollout (stats/flow.py) of a kept prompt, the first by default.

        After each block, the share that each input token has in each token; rows sum to 1. Raises
        InputProblems as `pattern`.
        """
        from lensbench.stats.flow import mixing, rollout

        chosen = self._chosen(prompt_id)
        self.pattern(chosen, 0, 0, weighting)  # it was kept
        heads = self.table.to_pandas()[["block", "head"]].drop_duplicates()
        return rollout(
            [
                mixing(np.stack([self.pattern(chosen, block, h, weighting) for h in own["head"]]))
                for block, own in heads.groupby("block")
            ]
        )

    def _chosen(self, prompt_id: str | None) -> str:
        """A prompt by its id, or the first that was kept."""
        kept = self.patterns["prompt_id"].to_pylist()
        return kept[0] if prompt_id is None and kept else prompt_id or ""

    def __repr__(self) -> str:
        frame = self.to_pandas()
        heads = frame[["block", "head"]].drop_duplicates()
        lines = [
            f"AttentionResult({self.model}: {self.prompts.num_rows} prompt(s), "
            f"{len(heads)} heads, conditions {', '.join(frame['condition'].unique())})"
        ]
        lines += [
            f"  {one.condition}, {one.weighting}, {one.score}: {one.block}.{one.head} "
            f"at {one.value:.2f}"
            for one in strongest(frame, scores=self.scores).itertuples()
        ]
        if self.problems:
            lines.append(f"  {len(self.problems)} skipped: see .problems")
        return "\n".join(lines)


def strongest(frame: pd.DataFrame, n: int = 1, scores: Iterable[str] = SCORES) -> pd.DataFrame:
    """For each condition, weighting and score the n heads whose mean over prompts is highest.

    `value` is that mean. The highest of many is high by chance too.
    """
    keys = ["condition", "weighting", "block", "head"]
    names = list(scores)
    means = frame.groupby(keys, sort=False)[names].mean().reset_index()
    best = []
    for _, own in means.groupby(["condition", "weighting"], sort=False):
        for score in names:
            most = own.dropna(subset=[score]).nlargest(n, score)
            best.append(most[keys].assign(score=score, value=most[score]))
    return pd.concat(best, ignore_index=True)


def read_heads(
    model: LensModel,
    prompts: Prompts,
    settings: AttentionSettings,
    template: Template = "plain",
) -> AttentionResult:
    """Every head of a model over prompts, gated.

    Raises GateError, ModelError and InputProblems as `lensbench.attention` says.
    """
    encoder, given = require_loaded(model).encoder(template), as_prompts(prompts)
    encoded, problems = asked(encoder, given, settings, CONDITIONS)
    encoded, short = long_enough(encoded)
    problems += [*short, *not_kept(settings, encoded)]
    if not encoded:
        raise InputProblems(problems or [NOTHING])
    reader = Reader(Source(model), settings)
    identities = check_heads(reader.source, gate_prompts(model, encoded), settings.moved)
    require(identities)
    texts, over = condition_texts(reader, encoded)
    (readings,) = plan_readings(reader, texts, [[item.prompt for item in encoded]])
    parts = [read(reader, Job(number, one)) for number, one in enumerate(readings)]
    told = Told(HEADS, partial(rows_identity, reader.source), identities, SCORES)
    return together(model, encoded, texts, parts, [*problems, *over], told)


def asked(
    encoder: Encoder,
    given: Sequence[Prompt],
    settings: AttentionSettings | EncoderSettings,
    conditions: Iterable[str],
) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Prompts in the model's tokens, and those that have none.

    Raises InputProblems for conditions, weightings and prompts to keep that are not known.
    """
    known = {"conditions": [*conditions], "weightings": [*WEIGHTINGS]}
    require_known([(k, one, v) for k, v in known.items() for one in getattr(settings, k)])
    ids = [prompt.id for prompt in given]
    require_known([("keep", name, ids) for name in settings.keep])
    return encode_all(encoder, given)


@dataclass(frozen=True)
class Told:
    """What is said of readings: their table, what of their rows was tested, what scores mean."""

    table: Table
    rows: Callable[[float], Identity]  # from the worst error of a row
    identities: Sequence[Identity]  # that of rows first
    scores: Mapping[str, str]
    both_ways: bool = False


def together(
    model: LensModel | TextEncoder,
    encoded: Sequence[EncodedPrompt],
    texts: dict[str, list[Text]],
    parts: Sequence[Part],
    problems: Sequence[Problem],
    told: Told,
) -> AttentionResult:
    """What all parts that were read make, gated by the worst of them.

    Raises InputProblems where every text gave NaN or Inf, GateError.
    """
    problems = [*problems, *(problem for part in parts for problem in part.problems)]
    if all(part.notes[ERROR] is None for part in parts):
        raise InputProblems(problems)
    gate = gate_of_all(told.rows, told.identities, (part.notes for part in parts))
    heads = in_order(pa.concat_tables([part.tables[told.table.name] for part in parts]), texts)
    kept = [part.tables[PATTERNS.name] for part in parts if PATTERNS.name in part.tables]
    return AttentionResult(
        model.name,
        heads,
        prompts_table(model, read_ones(heads, encoded), TokenText(model.tokenizer)),
        pa.concat_tables([PATTERNS.schema.empty_table(), *kept]),
        gate,
        problems,
        told.scores,
        told.both_ways,
    )


def require_known(given: Sequence[tuple[str, str, Sequence[str]]]) -> None:
    """Raise InputProblems with every (key, value, known values) whose value is not known."""
    found = [
        Problem(key, f"there is no {value!r}", nearest(value, known))
        for key, value, known in given
        if value not in known
    ]
    if found:
        raise InputProblems(found)
