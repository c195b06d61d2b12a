"""What clients ask for: taken in, read, kept to its deadline, told what becomes of it."""
