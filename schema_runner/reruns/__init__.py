"""Retries of failed tests, and the diagnosis of failures."""
