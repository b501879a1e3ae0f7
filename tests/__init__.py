"""The tests, laid out as the package is; `harness/` is what they share."""
