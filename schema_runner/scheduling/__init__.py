"""Test selection, test order and the number of workers."""
