"""Checkpoints: what a model is called, where its files are, what they hold, how they are opened."""
