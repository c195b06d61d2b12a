"""Metrics of a mesh and its gateway, for Prometheus."""
