"""The evaluation of arXiv 2510.11331 as it is printed: the paper's own model, program and figures.

It is separate from the rest of `bench/paper`, which evaluates this project's planner in this
project's model. bench/scenarios/paper-as-printed.toml gives the source of each value.
"""
