"""Global weather and wave forecasts with cascaded large-kernel convolutional networks.

Importing this package loads nothing heavy; take what you need from its modules, for example
`from forecast.puyun import PuYun` or `from forecast.checkpoint import load_checkpoint`.
"""
