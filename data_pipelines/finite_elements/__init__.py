"""The 2-D wave equation by finite elements: meshes, assembly, time stepping, and sampling onto a regular grid."""
