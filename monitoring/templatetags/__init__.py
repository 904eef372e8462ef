"""What the templates of `monitoring` call."""
