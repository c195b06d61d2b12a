"""Many requests, and machines that lack something."""
