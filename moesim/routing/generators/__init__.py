"""Synthetic routing: loads made from a rule and a seed instead of a recorded trace."""

from moesim.routing.generators.registry import create_generator, generator_kinds, generator_parameters

__all__ = ["create_generator", "generator_kinds", "generator_parameters"]
