"""The gateway under what clients may send, and under many of them."""
