"""Own timings: a file of measurements that a user made, checked, scored, and fitted (``moesim calibrate``).

The file's format is written down in docs/measurements.md.
"""
