"""Results of the bench as files: their schema, reports from them, and one compared with another."""
