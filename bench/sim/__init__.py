"""A discrete-event simulator: the live scheduler and policies with simulated nodes and links."""
