"""What a draft is worth: acceptance, confidence, noise, and prompt lookup beside it."""
