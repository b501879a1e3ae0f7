"""Training an adapter on pairs."""
