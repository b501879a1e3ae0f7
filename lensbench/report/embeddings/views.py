"""What the charts of an encoder's report show: cosines of texts, and ratings beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensbench.report.kit.views import Axis, Dots, Line, Map

MOST_TEXTS = 24  # of a heat map and named in a plane: the first ones


def square(grid: pd.DataFrame) -> tuple[list[str], Float[np.ndarray, "text text"]]:
    """The first texts of the grid, and their cosines with each other, -1..1; NaN: no angle."""
    texts = list(grid["a"].unique()[:MOST_TEXTS])
    cells = grid.pivot(index="a", columns="b", values="cosine").loc[texts, texts]
    return texts, cells.to_numpy(np.float64)


def cosine_map(grid: pd.DataFrame) -> Map:
    """The same as a heat map, in the colours of -1 to 1."""
    texts, cells = square(grid)
    n, axis = grid["a"].nunique(), Axis()
    cut = f"The first {len(texts)} of {n} texts; all are in grid.csv." if n > len(texts) else ""
    return Map(axis, axis, cells, (-1.0, 1.0), "cosine", zero=True, note=cut, names=texts)


def rating_dots(rated: pd.DataFrame) -> Dots | None:
    """A row for each correction, a dot for each set; None where nobody was asked."""
    if rated.empty:
        return None
    lines = [
        Line(str(name).replace("_", "-"), own["spearman"].tolist())
        for name, own in rated.groupby("correction", sort=False)
    ]
    sets = [str(one) for one in rated["rated_set"].unique()]
    return Dots(Axis("Spearman's correlation with ratings"), lines, series=sets)
