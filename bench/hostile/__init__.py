"""Measure what unknown peers, broken peers and hostile requests can do to a mesh."""
