"""The least that a Django import needs, for type checking and the tests without a project."""

SECRET_KEY = "tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "project"}}
USE_TZ = True
