"""Processes that die, sleep or fail at random, under streams."""
