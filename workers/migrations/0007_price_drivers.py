from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0006_personal_data"),
    ]

    operations = [
        migrations.CreateModel(
            name="PriceDriver",
            fields=[
                ("symbol", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("owner", models.CharField(help_text="The process, as its log names it.", max_length=32)),
                ("token", models.BigIntegerField(help_text="The newest fencing token used for the symbol.")),
                ("seen_at", models.DateTimeField(help_text="When the process last said so.")),
                (
                    "degraded_since",
                    models.DateTimeField(help_text="Since when it closes deals itself; NULL: workers do.", null=True),
                ),
                ("reason", models.TextField(blank=True, help_text="Why it does.")),
            ],
            options={"db_table": "price_drivers"},
        ),
    ]
