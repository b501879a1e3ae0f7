"""A fitted lens: how far it is from the model on text that it has not seen."""
