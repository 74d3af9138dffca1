"""Every rank ends with the sum: schedules, communicators, transports, bandwidth.

The room moves and adds arrays between ranks. It never knows what a model is, never decides who is
a member, and never unpickles a byte. Start reading at `schedule.py` (an algorithm as data), then
`communicator.py` (the two protocols), then `links/link.py` (what outlives a connection).
"""

from holdfast.collectives.communicator import Communicator, GroupConfig, Transport
from holdfast.collectives.cost import CostModel
from holdfast.collectives.group import connect, register, transports
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.work import Work

__all__ = [
    "Communicator",
    "CostModel",
    "GroupConfig",
    "LinkConfig",
    "Transport",
    "Work",
    "connect",
    "register",
    "transports",
]
