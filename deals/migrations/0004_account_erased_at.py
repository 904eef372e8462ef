from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("deals", "0003_health_indexes"),
    ]

    operations = [
        migrations.AddField(
            model_name="account",
            name="erased_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When its user's personal data were erased: it opens no deals any more.",
                null=True,
            ),
        ),
    ]
