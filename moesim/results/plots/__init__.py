"""Charts of results: object-oriented matplotlib figures without global state."""
