"""Statistics: estimates with intervals, from plain arrays. No torch, no model."""
