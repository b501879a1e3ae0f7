"""What each kind of stage will take, before it is begun."""
