from django.apps import AppConfig


class CurrenciesConfig(AppConfig):
    """The currencies that accounts are held in."""

    name = "currencies"
