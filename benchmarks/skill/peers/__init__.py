"""Peers of the PuYun network at equal budget, behind the same trainer: own implementations from their descriptions.

Each is a `forecast.tendency_network.TendencyNetwork`, registered by its name: two frames and forcings in, a normalised tendency
out. All get the same inputs, the clock included, and begin as persistence. What a file departs from is told in it.
"""
