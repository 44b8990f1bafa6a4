"""Minimal settings to import Django's modules, for type checking and tests without a project."""

SECRET_KEY = "tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "project"}}
USE_TZ = True
