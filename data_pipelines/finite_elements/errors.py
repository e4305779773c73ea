"""What finite elements refuse."""


class FiniteElementError(ValueError):
    """A mesh, a step or a setting with which the wave equation cannot be solved."""


class InvertedElementError(FiniteElementError):
    """A mesh with triangles that are turned over or flat."""


class UncoveredGridError(FiniteElementError):
    """A regular grid that reaches out of the mesh."""


class UnstableStepError(FiniteElementError):
    """A time step above the limit of the explicit scheme."""


def need(package: str, extra: str) -> str:
    """Say what to install."""
    return f"finite-element waves need the package {package}; install it with: pip install 'skysolve[{extra}]'"
