"""Which experts are loaded before their router has asked for them: predictors, and what to load first."""
