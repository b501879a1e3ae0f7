"""Loading for the second path: a plain Hugging Face model at its bits, with its adapter."""
