"""Tables, metrics, plots and timelines of a run."""
