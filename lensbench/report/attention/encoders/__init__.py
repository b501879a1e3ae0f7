"""The report of a text encoder's heads, which look both ways."""
