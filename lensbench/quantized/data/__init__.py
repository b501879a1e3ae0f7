"""Training data: pairs, where they come from, and what is wrong with them."""
