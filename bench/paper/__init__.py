"""The evaluation of arXiv 2510.11331 as it is printed: the paper's own model, program and figures.

bench/scenarios/paper-as-printed.toml gives the source of each value. The paper's scheme in
simulated meshes is `python -m bench sim --modes paper`.
"""
