"""Lenses that were fitted to a model: maps to its last layer, and where they are found."""
