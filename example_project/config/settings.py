"""Settings, read from the environment by django-environ."""

from pathlib import Path

import environ

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = env.str("SECRET_KEY", default="only-good-enough-for-an-example-project")
DEBUG = env.bool("DEBUG", default=True)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "currencies",
    "accounts",
    "transactions",
]

# The API uses bearer tokens and no cookies, so it needs neither sessions nor CSRF protection.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]

if "DATABASE_URL" in env:
    DATABASES = {"default": env.db("DATABASE_URL")}
else:
    from schema_runner import embedded

    DATABASES = {"default": embedded.database("example")}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": env.cache("CACHE_URL", default="locmemcache://"),
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
MEDIA_URL = "media/"
MEDIA_ROOT = env.path("MEDIA_ROOT", default=str(BASE_DIR / "media"))()

# How operations are executed: the payment provider, and the executor of the steps.
PAYMENT_GATEWAY = env.str("PAYMENT_GATEWAY", default="transactions.gateway.FakeGateway")
SAGA_EXECUTOR = env.str("SAGA_EXECUTOR", default="transactions.executor.BackgroundExecutor")

TEST_RUNNER = "schema_runner.SchemaDiscoverRunner"
SCHEMA_RUNNER = {
    "SEEDERS": ["currencies.reference.seed"],
    "FIXTURES": ["limits"],
    "WORKER_SETUP": ["config.testing.isolate_worker"],
}
