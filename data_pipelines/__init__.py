"""From any source of global fields to one analysis store, and from there to statistics and to training.

Importing this package loads nothing heavy; take what you need from its modules, for example
`from data_pipelines.store import open_analysis` or `from data_pipelines.streaming import WindowStream`.
"""
