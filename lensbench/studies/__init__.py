"""Runs: models x prompts, measured batch by batch into records."""
