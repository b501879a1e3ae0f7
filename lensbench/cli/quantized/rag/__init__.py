"""Documents to retrieve from: build, add, query, info, check."""
