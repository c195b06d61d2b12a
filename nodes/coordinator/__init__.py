"""The coordinator: pure state, and the shell around it."""
