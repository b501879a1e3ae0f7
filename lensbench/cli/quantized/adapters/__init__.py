"""Adapters: show, diff, merge."""
