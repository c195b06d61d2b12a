"""The status document of the coordinator."""
