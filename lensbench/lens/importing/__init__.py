"""Records that another tool measured: read, checked as a whole, and written as lensbench's own."""
