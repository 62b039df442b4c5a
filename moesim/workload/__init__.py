"""Which tokens arrive when."""
