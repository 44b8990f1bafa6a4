"""Resets of a schema: its rows brought back to a known state, at the cost of what changed."""
