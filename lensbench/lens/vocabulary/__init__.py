"""One pass over the vocabulary: what is known of a distribution after it, and how it is made."""
