"""Which experts are loaded before their router has asked for them: predictors and the order of their loads."""
