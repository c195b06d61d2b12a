"""What a draft learns from: text, prompts, and the target's own answers."""
