"""Other groups' networks in the project's own trainer, roll-out and scoring: `python -m benchmarks.skill.peers`.

Each file is one network, written from its published description, on the same contract as the PuYun network
(`forecast.tendency_network`): two frames and forcings in, a normalised tendency out. All get the same inputs, the clock included,
and begin as persistence. What a file departs from is told in it.
"""

from benchmarks.skill.peers.icosahedral_graph import IcosahedralGraph
from benchmarks.skill.peers.spherical_operator import SphericalOperator
from benchmarks.skill.peers.u_net import UNet
from benchmarks.skill.peers.window_attention import WindowAttention

__all__ = ["IcosahedralGraph", "SphericalOperator", "UNet", "WindowAttention"]
