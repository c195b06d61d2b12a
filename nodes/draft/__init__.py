"""The draft node: guesses tokens."""
