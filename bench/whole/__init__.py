"""Most suites of the bench in one run, as one result."""
