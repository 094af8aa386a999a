"""What can be done to a server: each fault a value in one registry, and what tells whether it can be done here."""

from chaos.faults.fault import Blow, Consequence, Fault
from chaos.faults.registry import DEFAULT, FAULTS

__all__ = ["DEFAULT", "FAULTS", "Blow", "Consequence", "Fault"]
