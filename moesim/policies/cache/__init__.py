"""Which experts a cache in GPU memory keeps: eviction policies, sizes of caches, and a replay of traces."""
