"""Kernels and collectives that somebody timed: the tables of a published package, read and interpolated.

Readers (``*_tables``) turn the package's files into frames of our columns.
"""
