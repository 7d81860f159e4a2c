"""
The tables of the compatibility tests as models of Django, which a project of its own is not needed for.
"""

from __future__ import annotations

import sys

from django.apps import AppConfig, apps
from django.contrib.postgres.fields import ArrayField
from django.db import connections, models

from tests import django_settings  # noqa: F401 - before the models

__all__ = [
    "ALIASES",
    "Always",
    "Composite",
    "Handle",
    "Job",
    "NaturalKey",
    "Order",
    "SalesLine",
    "Tree",
    "User",
    "connect",
    "disconnect",
]

ALIASES = ("tenancy_compat", "tenancy_other")


class User(models.Model):
    email = models.CharField(max_length=200, unique=True)
    name = models.TextField(default="nobody")
    age = models.IntegerField(null=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "users"


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="orders")
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "orders"


class NaturalKey(models.Model):
    code = models.TextField(primary_key=True)
    title = models.TextField(null=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "natural_key"


class Always(models.Model):
    id = models.BigAutoField(primary_key=True)
    note = models.TextField(null=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "always"


class Handle(models.Model):
    handle = models.TextField(null=True)
    active = models.BooleanField(default=True)
    region = models.TextField(null=True)
    number = models.IntegerField(null=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "handles"


class Tree(models.Model):
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, db_column="parent", related_name="children")
    friend = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, db_column="friend", related_name="friends")
    label = models.TextField()

    class Meta:
        app_label = "tenancy_compat"
        db_table = "tree"


class Job(models.Model):
    payload = models.JSONField()
    owner = models.ForeignKey(User, null=True, on_delete=models.CASCADE, db_column="owner", related_name="jobs")

    class Meta:
        app_label = "tenancy_compat"
        db_table = "jobs"


class SalesLine(models.Model):
    order_id = models.IntegerField()
    buyer = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, db_column="buyer", related_name="+")

    class Meta:
        app_label = "tenancy_compat"
        db_table = "lines"


class Composite(models.Model):
    # Django before 5.2 has no composite keys; a table can be read by one column of it.
    tenant = models.TextField(primary_key=True)
    number = models.IntegerField()
    note = models.TextField(null=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "composite"


class Kinds(models.Model):
    id = models.UUIDField(primary_key=True)
    tags = ArrayField(models.TextField(), null=True)
    document = models.JSONField(null=True)
    exact = models.DecimalField(max_digits=12, decimal_places=3, null=True)

    class Meta:
        app_label = "tenancy_compat"
        db_table = "kinds"


class Config(AppConfig):
    name = label = "tenancy_compat"
    path = "."


# What of one model leads to another is known of installed applications only.
_config = Config("tenancy_compat", sys.modules[__name__])
_config.apps, _config.models = apps, apps.all_models["tenancy_compat"]
apps.app_configs["tenancy_compat"] = _config
apps.clear_cache()


def connect(alias: str, dsn: str, **options: object) -> None:
    """
    Give Django a database under an alias, as if it stood in ``DATABASES``.

    Args:
        alias: One of `ALIASES`.
        dsn: Its address.
        options: More of its settings.
    """
    rest = dsn.partition("://")[2]
    user, _, place = rest.partition("@")
    host, _, name = place.partition("/")
    host, _, port = host.partition(":")
    made = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": user, "HOST": host, "PORT": port, **options}
    connections.databases[alias] = connections.configure_settings({"default": {}, alias: made})[alias]


def disconnect(alias: str) -> None:
    """
    Take it away again, and close this thread's connection.
    """
    connections[alias].close()
    del connections[alias]
    del connections.databases[alias]
