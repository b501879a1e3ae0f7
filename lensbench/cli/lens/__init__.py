"""Verbs of the lens."""
