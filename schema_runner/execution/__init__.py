"""Running test classes in worker processes."""
