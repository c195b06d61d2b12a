"""What the coordinator knows, for whoever asks."""
