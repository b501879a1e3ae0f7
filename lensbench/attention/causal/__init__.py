"""What heads do for the output: what is lost without them, and what they add to an answer."""
