"""The state of all models, as canonical text."""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db.models.options import DEFAULT_NAMES

from .canonical import Canonical, dotted_path

# Options for which Django or the settings fill in defaults.
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
# Covered above, or irrelevant to the database.
_EXCLUDED = {*_DERIVED, "apps"}


def model_texts(canonical: Canonical) -> Iterator[tuple[str, str]]:
    """Yield the label of each app that has models, and their text.

    Keep the order of models, because it determines the primary keys of content types.
    """
    for app in apps.get_app_configs():
        app_models = app.get_models(include_auto_created=True, include_swapped=True)
        if texts := [_model_text(model, canonical) for model in app_models]:
            yield app.label, "\n\n".join(texts)


def _model_text(model: Any, canonical: Canonical) -> str:
    meta = model._meta
    attributes = {
        name: meta.original_attrs[name]
        for name in DEFAULT_NAMES
        if name in meta.original_attrs and name not in _EXCLUDED
    }
    derived = [getattr(meta, name) for name in _DERIVED]
    lines = [
        f"{meta.label} {meta.pk and meta.pk.name}",
        " ".join([dotted_path(base) for base in model.__mro__[1:]]),
        canonical.text(attributes),
        canonical.sequence(derived),
    ]
    fields = [*meta.local_fields, *meta.local_many_to_many, *meta.private_fields]
    managers = [manager for manager in meta.managers if manager.use_in_migrations]
    lines += [f"{item.name}: {canonical.text(item)}" for item in (*fields, *managers)]
    return "\n".join(lines)
