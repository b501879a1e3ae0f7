"""Records of lenses, and what may be asked of them alone."""
