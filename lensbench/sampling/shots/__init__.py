"""Tasks with answers, asked with and without examples."""
