"""Running tests again: to see why they failed, and whether they fail again."""
