"""The page of one text: what a model makes of it, step by step."""
