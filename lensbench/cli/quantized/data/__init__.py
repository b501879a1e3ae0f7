"""Training data: merge, convert, check, split; and the sets that lensbench has itself."""
