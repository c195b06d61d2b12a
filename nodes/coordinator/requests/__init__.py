"""Requests of clients: validation, tokenization, deadlines and the notices sent about them."""
