"""Kernels and collectives that somebody timed: the tables of a published package, read between points.

``source.MeasuredTables`` gives prices of one device and says where its tables reach; ``notes.Notes`` collects
what a run has to say about the rest. Readers (``*_tables``) turn the package's files into frames of our own,
``grid`` and ``expert_curves`` keep them as arrays, and ``between`` is the rule to read them by. Importing
``source`` loads neither pandas nor a table.
"""
