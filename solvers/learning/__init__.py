"""Training of preconditioners: networks, where their right-hand sides come from, losses. The solver imports none of it."""
