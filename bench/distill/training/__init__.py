"""From text and answers to a model, and from the model to a GGUF."""
