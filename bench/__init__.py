"""Measures the whole system: embedded durable servers, real processes, deals by the million. Nothing imports it."""
