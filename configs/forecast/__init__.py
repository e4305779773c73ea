"""Values of the entry points of `forecast`."""
