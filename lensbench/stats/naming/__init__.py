"""Names of heads: what a head may be called, and what its scores must be more than."""
