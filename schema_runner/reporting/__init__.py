"""Showing what a run has come to."""
