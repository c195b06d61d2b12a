"""An engine's costs on this machine, one model at a time."""
