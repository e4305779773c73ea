"""Layers that know they lie on a sphere."""
