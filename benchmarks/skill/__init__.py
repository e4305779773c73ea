"""Networks side by side at an equal, small budget: every number regenerates from committed configs and seeds."""
