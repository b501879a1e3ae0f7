"""Bench: the lens beside its peers in one run. Ratios, not times: machines are noisy."""
