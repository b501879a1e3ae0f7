"""The report of a correlation study."""
