"""`python -m bench equal-cores`: ways to serve a pair of models, each with the same cores."""
