"""The report of texts that were classified: every method on the same tested texts."""
