"""Lenses side by side: what each says of the claim, fact by fact, and which the headline is of."""
