"""Generation: a file of prompts in, responses out, with retrieval and tracing."""
