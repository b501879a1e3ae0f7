"""What a report says of attention heads."""
