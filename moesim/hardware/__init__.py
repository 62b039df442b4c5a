"""Where it runs: devices, memory tiers, links, and what each kind of work costs on them."""
