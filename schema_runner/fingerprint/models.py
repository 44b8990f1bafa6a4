"""The state of all models, as canonical text."""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db.models.options import DEFAULT_NAMES

from .canonical import Canonical, path_of

# Filled in for what Meta leaves out, by Django or by settings.
_DERIVED = (
    "db_table",
    "db_tablespace",
    "managed",
    "proxy",
    "swappable",
    "swapped",
    "auto_created",
    "verbose_name",
    "permissions",
    "default_permissions",
    "unique_together",
    "order_with_respect_to",
    "indexes",
    "constraints",
)
# Written above, or not about the database.
_LEFT_OUT = {*_DERIVED, "apps"}


def model_texts(to: Canonical) -> Iterator[tuple[str, str]]:
    """Yield the label of each app that has models, and the text of these, in their order.

    The order counts, as it gives content types their primary keys.
    """
    for app in apps.get_app_configs():
        found = app.get_models(include_auto_created=True, include_swapped=True)
        if texts := [_model(model, to) for model in found]:
            yield app.label, "\n\n".join(texts)


def _model(model: Any, to: Canonical) -> str:
    meta = model._meta
    attributes = {
        name: meta.original_attrs[name]
        for name in DEFAULT_NAMES
        if name in meta.original_attrs and name not in _LEFT_OUT
    }
    derived = [getattr(meta, name) for name in _DERIVED]
    lines = [
        f"{meta.label} {meta.pk and meta.pk.name}",
        " ".join([path_of(base) for base in model.__mro__[1:]]),
        to.text(attributes),
        to.listed(derived),
    ]
    fields = [*meta.local_fields, *meta.local_many_to_many, *meta.private_fields]
    managers = [manager for manager in meta.managers if manager.use_in_migrations]
    lines += [f"{one.name}: {to.text(one)}" for one in (*fields, *managers)]
    return "\n".join(lines)
