"""Values of the entry points of `data_pipelines`."""
