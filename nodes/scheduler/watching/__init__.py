"""What became of rounds: counted, held against what was predicted, told to who asks."""
