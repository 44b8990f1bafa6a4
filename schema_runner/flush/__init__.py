"""Resets of the tables that tests have dirtied, in place of the flushes of Django's tests."""
