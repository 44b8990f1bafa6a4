"""Errors of orders and of steps."""


class OrderError(Exception):
    """An order that is not accepted: nothing was written."""


class OrderForbiddenError(OrderError):
    """An order on another user's account."""


class OrderConflictError(OrderError):
    """An order that contradicts an earlier one."""


class StepError(Exception):
    """A step that failed: the steps before it have to be undone."""


class InsufficientFundsError(StepError):
    """The account holds less than the amount."""


class AccountFrozenError(StepError):
    """The account is frozen."""


class ProviderDeclinedError(StepError):
    """The payment provider declined."""


class ProviderUnreachableError(StepError):
    """The payment provider did not answer, and may have acted or not."""
