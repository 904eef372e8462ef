"""Have autovacuum look at `deals` after 2 % of its rows have changed instead of 20 %.

Every deal changes a few times in its life. What counts and finds watched deals (health, the sweep) reads indexes, and
PostgreSQL takes the table along for every page that was changed since its last vacuum: with a million deals 200,000
changes would have to come first. Statistics likewise: the
sweep's plan follows how many deals of a symbol are watched.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("deals", "0005_event_gap")]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE deals SET (
                autovacuum_vacuum_scale_factor = 0.02,
                autovacuum_vacuum_insert_scale_factor = 0.02,
                autovacuum_analyze_scale_factor = 0.02
            )
            """,
            """
            ALTER TABLE deals RESET (
                autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor
            )
            """,
        ),
    ]
