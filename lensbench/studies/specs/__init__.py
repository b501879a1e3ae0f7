"""What each kind of study is told; a spec needs no model and no torch."""
