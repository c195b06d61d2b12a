"""Guesses for one target's streams: who makes them, on trial or in rounds, and when they pay."""
