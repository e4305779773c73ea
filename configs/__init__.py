"""Values of every entry point: one folder per package, one YAML per entry point.

The dataclass beside an entry point's code holds names, types, units and checks; the YAML here holds the values.
`configs.compose` joins the two.
"""
