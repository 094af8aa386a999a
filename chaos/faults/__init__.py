"""What can be done to a server: one small value type each, in one registry.

A fault knows its name, whether it can be done to a target, how it is done, and what it must cause. It never
waits for what it causes: that is the campaign's part.
"""

from chaos.faults.fault import Blow, Fault
from chaos.faults.signals import SigkillRandom, SigkillRole, SigkillSeveral, Sigquit

FAULTS: dict[str, Fault] = {
    fault.name: fault for fault in (SigkillRandom(), SigkillRole(), SigkillSeveral(), Sigquit())
}

__all__ = ["FAULTS", "Blow", "Fault"]
