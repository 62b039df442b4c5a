"""Scenarios: read, checked and built."""
