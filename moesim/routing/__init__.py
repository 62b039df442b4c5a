"""Which experts each token takes: recorded traces, generators and loads."""
