"""Resets: restore the rows of a schema, at a cost that depends on what changed."""
