"""Verbs about attention heads."""
