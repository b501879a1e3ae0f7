"""A lens read on other variants of its model: what is lost beside a lens of their own."""
