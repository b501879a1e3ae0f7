"""Adapters: their folder, which modules they train, what they change."""
