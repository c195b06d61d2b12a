"""What all suites share: starting processes, asking, judging texts, and reporting."""
