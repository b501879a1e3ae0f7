"""What a fit takes, stage by stage, from a model's shapes and the lengths of its texts.

Left out is what is no product of matrices: norms, softmaxes, sums over the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lensbench.costs.cost import Cost, total
from lensbench.costs.shape import Shape
from lensbench.fitting.causal.record import TEXTS, TOKENS, layers_of
from lensbench.fitting.linear import STRENGTHS
from lensbench.fitting.moments import strips
from lensbench.fitting.quality import FIRST, PARTS
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tuned import CHECKS, STEP_TOKENS
from lensbench.fitting.windows import Part, wanted_tokens
from lensbench.lens.fitted.place import Method

_EIGENVECTORS = 9  # d^3 operations: of a symmetric matrix, with its eigenvalues
_READINGS: dict[Method, int] = {"linear": 3, "tuned": 4, "jacobian": 5}  # controls with them
_MOVED: dict[Method, int] = {"linear": 1, "tuned": 2, "jacobian": 3}  # beside final and random
CONTROL = "fitting the control to an untrained model"


@dataclass(frozen=True)
class FitCost:
    """A fit of a model of some shape to texts of these `lengths`, part by part.

    `capped`: the model bends its logits.
    """

    shape: Shape
    n_layers: int
    spec: FitSpec
    lengths: Mapping[Part, Sequence[int]]
    capped: bool = False

    @classmethod
    def before_reading(
        cls, shape: Shape, n_layers: int, n_ctx: int, spec: FitSpec, capped: bool = False
    ) -> FitCost:
        """Of texts that fill every window, as none of them is read yet."""
        each = min(spec.window, n_ctx)
        wanted = dict(wanted_tokens(spec))
        if spec.also is not None:
            wanted["other"] = spec.test_tokens
        lengths = {part: [each] * math.ceil(n / each) for part, n in wanted.items()}
        return cls(shape, n_layers, spec, lengths, capped)

    def stages(self) -> dict[str, Cost]:
        """Of a linear lens: every stage by its name, in their order."""
        return {
            "states of the text": self.passes("fit"),
            "their moments": self.moments(self.n_states("fit"), self.n_layers),
            "maps": self.maps(self.n_layers),
            "held-out text": self.choosing(self.n_layers) + self.measuring(),
            "removing directions": self.fidelity(),
            CONTROL: self.control(),
        }

    def finishing(self) -> Cost:
        """What becomes of all jobs: maps, figures on held-out text, controls, files."""
        spec, n_layers, width = self.spec, self.n_layers, self.shape.d_model
        cost = self.measuring() + self.fidelity()
        if spec.method == "linear":
            cost += self.solving(n_layers)
        if spec.method == "jacobian":  # the linear lens of the same text beside it
            cost += self.passes("fit") + self.linear()
        if not spec.no_untrained:
            cost += self.control()
        if spec.also is not None:
            cost += self.measuring("other")
        readings = self._readings
        rows = {"fit_documents": sum(map(len, self.lengths.values()))}
        rows["fit_quality"] = readings * (n_layers + 1)
        n_maps = n_layers + min(readings - 2, 3)
        return cost + Cost(rows=rows, file_bytes=4 * n_maps * width * (width + 1))

    def n_states(self, part: Part) -> int:
        """Of every token but each window's first."""
        return sum(n - FIRST for n in self.lengths[part])

    def passes(self, part: Part, logits: bool = False) -> Cost:
        """Over a part of the corpus, with logits of every state or without."""
        return self.over(self.lengths[part], logits)

    def over(self, lengths: Sequence[int], logits: bool = False) -> Cost:
        """Over texts that are of one length."""
        each = max(lengths)
        at_once = max(self.spec.batch_tokens // each, 1)
        sizes = [min(at_once, len(lengths) - i) for i in range(0, len(lengths), at_once)]
        return total(self.shape.batch(n, each, (each - FIRST) * logits) for n in sizes)

    def moments(self, n_states: int, n_layers: int) -> Cost:
        """Sums of products of each state with itself, in float64, and with two targets."""
        width = self.shape.d_model
        squares = sum(2.0 * (stop - start) * (width - start) for start, stop in strips(width))
        return Cost(flops=n_states * n_layers * (2 * squares + 4.0 * width**2))

    def maps(self, n_layers: int) -> Cost:
        """Of each strength, and of targets dealt out anew, all in float64."""
        products = 2 * (1 + len(STRENGTHS)) + 2 * 2
        return Cost(flops=2.0 * n_layers * (_EIGENVECTORS + products) * self.shape.d_model**3)

    def choosing(self, n_layers: int) -> Cost:
        """Which strength of the ridge reads `choose` best, layer by layer."""
        n = self.n_states("choose")
        read = self.rows(n * n_layers * len(STRENGTHS))
        # Without a cap the mean of the head's rows, under what the model says.
        mean = Cost(flops=0 if self.capped else n * self.shape.row_flops)
        return self.passes("choose", logits=True) + read + mean

    def solving(self, n_layers: int) -> Cost:
        """The maps of some layers, from their moments."""
        return self.maps(n_layers) + self.choosing(n_layers)

    def linear(self) -> Cost:
        """The maps of all layers, from states."""
        return self.moments(self.n_states("fit"), self.n_layers) + self.solving(self.n_layers)

    def measuring(self, part: Part = "test") -> Cost:
        """Every reading of every state of a part of the corpus, and the bare state's."""
        n, sites = self.n_states(part), self.n_layers + 1
        read = self.rows(n * self.n_layers * (self._readings - 1))
        bare = Cost(flops=n * (sites + self._readings - 1) * self.shape.row_flops)
        return (
            self.passes(part, logits=True) + read + bare + self._means(part, sites * self._readings)
        )

    def reading(self, part: Part, n_fitted: int) -> Cost:
        """So many fitted lenses and the logit lens, read at the layers below the last."""
        n, n_layers = self.n_states(part), self.n_layers
        read = self.rows(n * n_layers * n_fitted) + Cost(flops=n * n_layers * self.shape.row_flops)
        rows = {"transfer": n_layers * (n_fitted + 1) * len(self.lengths[part])}
        means = self._means(part, n_layers * (n_fitted + 1))
        return self.passes(part, logits=True) + read + means + Cost(rows=rows)

    def control(self) -> Cost:
        """A linear lens of an untrained model's states, and what it is worth: two passes each."""
        twice = total(self.passes(part) for part in ("fit", "fit", "choose", "test"))
        read = self.rows(self.n_states("test") * self.n_layers)
        there = self.passes("test", logits=True) + self._means("test", self.n_layers)
        return twice + self.linear() + read + there

    def fidelity(self) -> Cost:
        """Directions removed one by one at a few layers, and what that does to model and lenses."""
        spec, n = self.spec, self.spec.directions
        texts = [min(TOKENS, length) for length in self.lengths["test"][:TEXTS]]
        if not n:
            return Cost()
        at_once = max(spec.batch_tokens // texts[0], 1)
        sizes = [min(at_once, n - i) for i in range(0, n, at_once)]
        passes = [self.shape.batch(1, t, t - FIRST) + self.shape.batch(1, t, t) for t in texts]
        passes += [self.shape.batch(own, t, t) for t in texts for own in sizes]
        n_read = sum(t - FIRST for t in texts) * (n + 1)
        mapped = self.rows(n_read * (_MOVED[spec.method] + 1))
        each = total(passes) + mapped + Cost(flops=n_read * self.shape.row_flops)
        return self.passes("choose") + total([each] * len(layers_of(self.n_layers)))

    def training(self, n_layers: int) -> Cost:
        """Of tuned maps: a step takes logits of every token, and their gradient back."""
        seen, width = self.spec.epochs * self.n_states("fit"), self.shape.d_model
        n_steps = self.spec.epochs * math.ceil(self.n_states("fit") / STEP_TOKENS)
        steps = self.rows(seen * 2 * n_layers) + Cost(flops=seen * self.shape.row_flops)
        turned = Cost(flops=4.0 * n_steps * n_layers * width**3)
        n_checked = (CHECKS + 1) * self.n_states("choose")
        checks = self.rows(n_checked * n_layers) + Cost(flops=n_checked * self.shape.row_flops)
        return steps + turned + checks

    def jacobian(self, n_tokens: int) -> Cost:
        """Of one text: a pass back for each column, over as many copies of it."""
        at_once = min(max(self.spec.batch_tokens // n_tokens, 1), self.shape.d_model)
        back = self.shape.back(at_once, n_tokens)
        n_back = math.ceil(self.shape.d_model / at_once)
        return self.shape.batch(at_once, n_tokens, 0) + total([back] * n_back)

    def rows(self, n: float) -> Cost:
        """Rows of logits, each of a state that a map was put before."""
        return Cost(flops=n * (self.shape.row_flops + 2.0 * self.shape.d_model**2))

    @property
    def moments_bytes(self) -> int:
        """Of the sums in float64, of all layers."""
        return 3 * 8 * self.n_layers * self.shape.d_model**2

    @property
    def _readings(self) -> int:
        """The lens, its controls and the logit lens."""
        return _READINGS[self.spec.method] + 1

    def _means(self, part: Part, n_rows: int) -> Cost:
        """Each state's distributions, and the model's, added to those of its part of the texts."""
        n_parts = min(PARTS, len(self.lengths[part]))
        each = 2.0 * n_parts * self.shape.d_vocab
        return Cost(flops=self.n_states(part) * (n_rows + 1) * each)
