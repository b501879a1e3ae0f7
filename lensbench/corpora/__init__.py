"""Plain text to fit lenses on: where it comes from, and what is left out of it."""
