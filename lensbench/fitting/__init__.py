"""Fitting lenses to a model: states of a corpus, second moments, maps, and what they are worth."""
