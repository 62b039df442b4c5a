"""Contract checks that every policy must pass, built-in or third-party."""
