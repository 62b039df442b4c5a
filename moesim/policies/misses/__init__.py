"""What becomes of experts that are needed and not in device memory: loaded, or computed on the CPU."""
