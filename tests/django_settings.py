"""
Django's settings, of which a process has one: what the tests of requests and those of databases need.
"""

from __future__ import annotations

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[],
        SECRET_KEY="test",
        LOGGING_CONFIG=None,
        USE_TZ=True,
        DATABASES={},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    django.setup()
