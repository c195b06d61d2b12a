"""What a mesh and its gateway do, as metrics for Prometheus."""
