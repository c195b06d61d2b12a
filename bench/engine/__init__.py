"""What an engine costs on this machine, one model at a time."""
