"""Policies that decide which device computes which tokens."""
