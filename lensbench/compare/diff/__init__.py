"""Two lens records of the same prompts, compared prompt by prompt and layer by layer."""
