"""The models of a generated project."""

from typing import NamedTuple

# How many apps refer to each other.
GROUP = 3
_ALTERED = {"name": "models.CharField(max_length=200, unique=True)"}
_MODEL = """
class {name}(models.Model):
{fields}

    class Meta:
        indexes = [{index}]
        constraints = [{constraint}]
"""


def app_name(number: int) -> str:
    return f"app{number:02}"


class Model(NamedTuple):
    """A model as its migrations make it, and as models.py has it in the end."""

    app: int
    position: int

    @property
    def name(self) -> str:
        return f"Item{self.app:02}{self.position:02}"

    @property
    def creation(self) -> str:
        key = 'models.BigAutoField("ID", auto_created=True, primary_key=True, serialize=False)'
        fields = {"id": key, **self._created}
        pairs = ", ".join(f'("{name}", {field})' for name, field in fields.items())
        return f'migrations.CreateModel("{self.name}", fields=[{pairs}])'

    @property
    def changes(self) -> list[str]:
        return [
            *(f'migrations.AddField("{self.name}", "{k}", {v})' for k, v in self._added.items()),
            *(f'migrations.AlterField("{self.name}", "{k}", {v})' for k, v in _ALTERED.items()),
            f'migrations.AddIndex("{self.name}", {self._index})',
            f'migrations.AddConstraint("{self.name}", {self._constraint})',
        ]

    @property
    def source(self) -> str:
        fields = {**self._created, **self._added, **_ALTERED}
        lines = "\n".join(f"    {name} = {field}" for name, field in fields.items())
        return _MODEL.format(
            name=self.name, fields=lines, index=self._index, constraint=self._constraint
        )

    @property
    def _created(self) -> dict[str, str]:
        fields = {
            "name": "models.CharField(max_length=100, unique=True)",
            "text": "models.TextField(blank=True)",
            "amount": "models.DecimalField(max_digits=10, decimal_places=2, default=0)",
            "is_active": "models.BooleanField(default=True)",
            "created": "models.DateTimeField(auto_now_add=True)",
        }
        if self.position:
            parent = Model(self.app, (self.position - 1) // 2)
        elif self.app % GROUP:
            parent = Model(self.app - 1, 0)
        else:
            return fields
        target = f'"{app_name(parent.app)}.{parent.name}"'
        parent_field = f"models.ForeignKey({target}, models.CASCADE, null={not self.position})"
        return {**fields, "parent": parent_field}

    @property
    def _added(self) -> dict[str, str]:
        fields = {
            "status": "models.PositiveSmallIntegerField(default=0)",
            "slug": 'models.SlugField(default="")',
        }
        if self.app < GROUP and self.position % 3 == 0:
            options = 'models.SET_NULL, related_name="+", null=True'
            fields["owner"] = f"models.ForeignKey(settings.AUTH_USER_MODEL, {options})"
        if self.position == 0:
            related = f"{app_name(self.app)}.{Model(self.app, 1).name}"
            fields["related"] = f'models.ManyToManyField("{related}", related_name="+")'
        return fields

    @property
    def _index(self) -> str:
        return f'models.Index(fields=["status", "created"], name="{self.name}_status")'

    @property
    def _constraint(self) -> str:
        if self.position % 2:
            condition = "models.Q(amount__gte=0)"
            return f'models.CheckConstraint(condition={condition}, name="{self.name}_amount")'
        return f'models.UniqueConstraint(fields=["slug", "status"], name="{self.name}_slug")'
