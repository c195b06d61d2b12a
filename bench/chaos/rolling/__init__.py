"""Restart every role in turn, while clients that can resume their requests send them."""
