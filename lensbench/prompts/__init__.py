"""Prompts: what is asked, what the answer is, and how a model's tokenizer sees both."""
