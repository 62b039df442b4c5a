"""Policies that decide which device holds which expert."""
