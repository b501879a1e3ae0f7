"""Verbs of the second path."""
