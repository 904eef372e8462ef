"""The groups `operators` and `support`. Permissions are made after all migrations, so the ones needed are made here."""

from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

from workers.groups import OPERATORS, READ_APPS, SUPPORT, create_groups


def create(apps: Any, _schema_editor: object) -> None:
    for name in READ_APPS:
        config = apps.get_app_config(name)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0)
        config.models_module = None
    create_groups(apps.get_model("auth", "Group"), apps.get_model("auth", "Permission"))


def delete(apps: Any, _schema_editor: object) -> None:
    apps.get_model("auth", "Group").objects.filter(name__in=(OPERATORS, SUPPORT)).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0004_operations"),
        ("deals", "0002_append_only_and_state"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [migrations.RunPython(create, delete)]
