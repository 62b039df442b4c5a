"""What is decided: placement and dispatch, as pure functions from loads to plans."""
