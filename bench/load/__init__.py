"""Load on the HTTP endpoint of any serving system, and figures of the answers. Knows no peer."""
