"""The report of sampling: settings on the next token and on texts, and tasks with examples."""
