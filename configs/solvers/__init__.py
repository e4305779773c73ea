"""Values of the entry points of `solvers`."""
