"""Handlers of post_migrate are connected, and called, where they are with stock Django."""

import pytest

from ..project import PARALLEL, Mode, Project

MANAGEMENT = """
    from django.db.models.signals import post_migrate

    def make(sender, using, **kwargs):
        if sender.label == "library":
            sender.get_model("Author").objects.using(using).get_or_create(name="made")

    post_migrate.connect(make, dispatch_uid="make")
"""
# The second is of an app that only tests install.
IMPORTED = """
    from django.test import modify_settings

    class Before(TestCase):
        def test_it(self): self.assertIn("library.management", sys.modules)

    class Made(TransactionTestCase):
        def check(self):
            self.assertEqual([one.name for one in Author.objects.all()], ["made"])
            Author.objects.create(name="x")
        test_a = test_b = test_c = check

    @modify_settings(INSTALLED_APPS={"append": "later"})
    class Other(Made):
        def test_c(self):
            self.check()
            self.assertIn("later.management", sys.modules)
"""


@pytest.mark.parametrize(
    ("mode", "method"),
    [(PARALLEL, "spawn"), (("--keepdb",), "fork"), (("--snapshot-dir", "kept"), "fork")],
    ids=["spawn", "keepdb", "snapshot"],
)
def test_management_packages_are_imported(project: Project, mode: Mode, method: str) -> None:
    """Where `migrate` does not run, and where a reset takes the place of `flush`."""
    project.write("library/management/__init__.py", MANAGEMENT)
    project.write("later/management/__init__.py", "")
    project.write("later/__init__.py", "")
    project.tests(IMPORTED)
    # Discovery in the folder of the app would import its packages.
    for _ in range(1 if method == "spawn" else 2):
        run = project.run(*mode, "library.test_generated", env={"START_METHOD": method})
        run.passed()
    if "--keepdb" in mode:
        project.drop_database(project.test_name)
