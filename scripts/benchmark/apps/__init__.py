"""Programs that are benchmarked beside the server, for comparison."""
