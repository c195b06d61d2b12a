"""Results of `peers` as files: their schema, and reports from them."""
