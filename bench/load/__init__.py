"""Load on HTTP endpoints of any serving system, and figures of what came back. Knows no peer."""
