"""The report of a sentence encoder: cosines, maps, anisotropy and ratings."""
