"""The same work done by others, on the same servers and in the same run: what our figures are ratios of."""
