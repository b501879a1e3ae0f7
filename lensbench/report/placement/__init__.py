"""The report of a placement study."""
