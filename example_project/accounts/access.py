"""The sender of a request, and the accounts that they may use."""

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, User
from django.core import signing
from django.http import HttpRequest

from accounts.models import Account
from config.api import RequestError

# A data migration creates it: its members may act for every customer.
OPERATORS = "operators"

_SALT = "accounts.access"
_LIFETIME_SECONDS = 24 * 60 * 60


def issue_token(user: AbstractBaseUser) -> str:
    """Return a token that identifies the user for a day."""
    return signing.dumps({"user": user.pk}, salt=_SALT)


def customer(request: HttpRequest) -> User:
    """Return the user whose bearer token a request carries."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        raise RequestError("Send your token as 'Authorization: Bearer …'.", status=401)
    try:
        claim = signing.loads(token, salt=_SALT, max_age=_LIFETIME_SECONDS)
    except signing.BadSignature as error:
        raise RequestError("The token is forged or too old.", status=401) from error
    user = get_user_model().objects.filter(pk=claim["user"], is_active=True).first()
    if user is None:
        raise RequestError("The token belongs to no user.", status=401)
    return user


def is_operator(user: User) -> bool:
    return user.groups.filter(name=OPERATORS).exists()


def may_use(user: User, account: Account) -> bool:
    """Return whether a user may see an account and withdraw from it."""
    return account.owner_id == user.pk or is_operator(user)
