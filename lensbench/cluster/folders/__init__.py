"""Where a run is kept, and how what workers make gets there: by sight, or through a folder."""
