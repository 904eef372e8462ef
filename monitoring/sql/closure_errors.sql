-- How often settling failed in the last minutes: attempts with single deals, and messages that failed for good.
SELECT
    (SELECT count(*) FROM deal_events
     WHERE kind = 'attempt' AND at > now() - make_interval(mins => %(minutes)s)) AS attempts,
    (SELECT count(*) FROM job_log
     WHERE state = 'failed' AND finished_at > now() - make_interval(mins => %(minutes)s)) AS jobs
