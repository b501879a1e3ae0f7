"""One text through a whole model: every step read from the model, for a page that shows them."""
