"""What runs: layers, experts, and their bytes and FLOPs."""
