"""Tables about the way from text to tokens."""
