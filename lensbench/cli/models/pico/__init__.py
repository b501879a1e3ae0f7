"""Train a small model of your own from random weights, and open it up at every step."""
