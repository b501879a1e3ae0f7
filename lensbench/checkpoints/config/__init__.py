"""config.json: what it may hold, and what it says of a model."""
