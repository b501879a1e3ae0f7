"""Verbs about the way from text to tokens."""
