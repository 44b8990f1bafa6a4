"""What this package raises."""


class SchemaRunnerError(Exception):
    """A run cannot go on; the message says what failed, on which object, and what to do."""
