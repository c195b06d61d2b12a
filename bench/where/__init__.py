"""Where a token's time goes: each role in a process of its own, the nodes with clocks inside."""
