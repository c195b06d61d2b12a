"""`airdraft chat`: a conversation in the terminal."""
