from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Customers' accounts, and who may use them."""

    name = "accounts"
