"""What heads do by their weights alone: what they copy, and which heads read which."""
