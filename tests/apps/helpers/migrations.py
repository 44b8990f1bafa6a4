"""Operations for migrations of projects whose models a test has written."""

from django.db.migrations import CreateModel
from django.db.migrations.state import ModelState
from django.db.models import Model


def created(*models: type[Model]) -> list[CreateModel]:
    """List the operations that create these models as they are now."""
    states = map(ModelState.from_model, models)
    return [CreateModel(one.name, list(one.fields.items()), one.options) for one in states]
