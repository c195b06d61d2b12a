"""Results of `equal-cores` as files: their schema, and reports from them."""
