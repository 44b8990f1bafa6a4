"""What can be wrong with an order, and what can go wrong with a step."""


class OrderError(Exception):
    """An order that is not accepted: nothing was written."""


class OrderForbiddenError(OrderError):
    """An order on somebody else's account."""


class OrderConflictError(OrderError):
    """An order that contradicts an earlier one."""


class StepError(Exception):
    """A step that cannot be done: the steps before it are to be undone."""


class InsufficientFundsError(StepError):
    """The account holds less than the amount."""


class AccountFrozenError(StepError):
    """The account takes part in nothing."""


class ProviderDeclinedError(StepError):
    """The payment provider said no."""


class ProviderUnreachableError(StepError):
    """The payment provider said nothing, and may have acted or not."""
