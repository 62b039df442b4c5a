"""Decisions of systems that keep experts in host memory, as pure formulas."""
