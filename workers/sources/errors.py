"""What goes wrong before a source can run: a wrong argument, a bad file, a missing library."""

from __future__ import annotations


class SourceError(Exception):
    """A source can't be built or started as asked; the text is one line for the operator."""
