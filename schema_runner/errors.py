"""What this package raises."""


class SchemaRunnerError(Exception):
    """A run cannot go on; the message says what failed, on which object, and what to do.

    `exit_code` is what the command ends with, where stock Django has its own for such a case.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LockTimeoutError(SchemaRunnerError):
    """A lock that the run needs is held by others for longer than it waits."""


class LeaseLostError(SchemaRunnerError):
    """A run was taken for dead, or may have been, and something of it is gone."""


class WorkerError(Exception):
    """What a test is told to have raised whose worker has died, or could not be set up."""


class TestTimeoutError(AssertionError):
    """A test has taken longer than it may."""

    # Not one of pytest's, whatever its name says.
    __test__ = False
