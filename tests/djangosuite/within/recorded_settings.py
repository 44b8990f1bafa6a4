"""Settings for Django's own tests; the variable DJANGOSUITE has those that differ between runs."""

import json
import multiprocessing
import os

_run = json.loads(os.environ["DJANGOSUITE"])

# runtests.py has no option for it; workers have it set already.
if multiprocessing.parent_process() is None:
    multiprocessing.set_start_method(_run["start_method"], force=True)

DATABASES = _run["databases"]
TEST_RUNNER = _run["test_runner"]
OUTCOMES = _run["outcomes"]

# As in Django's test_sqlite.py.
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False
