"""Output after the tests: the summary, hints, and commands that rerun tests."""
