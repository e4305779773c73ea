"""Numerical kernels from one CUDA C++ source that runs on GPU and CPU.

Nothing is here yet. Logarithms of the modified Bessel functions and the von Mises-Fisher distribution are planned; until
they stand, importing this package offers no name.
"""
