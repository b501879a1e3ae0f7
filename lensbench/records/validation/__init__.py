"""Whether what somebody wrote is a record: all that is wrong with it, at once."""
