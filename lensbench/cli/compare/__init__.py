"""Verbs that compare records."""
