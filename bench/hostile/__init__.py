"""What strangers and broken peers can do to a coordinator: measured, not argued."""
