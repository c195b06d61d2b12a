"""The OpenAI HTTP API in front of a mesh."""
