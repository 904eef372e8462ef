"""Breaks the whole system on purpose and checks that nothing was lost and nothing closed twice.

It knows the system by its doors only: REST opens deals, a Redis channel brings prices, SQL and Redis are read to check.
"""
