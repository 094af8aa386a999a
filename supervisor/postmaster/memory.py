"""What a generation of shared memory is made of: every subsystem's areas, put together (PostgreSQL's `ipci.c`).

Owns the list of subsystems and nothing else; each asks for its own bytes.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.engine import engine_areas, engine_init
from supervisor.shmem import activity, cancel_keys, pmsignal, worker_slots
from supervisor.shmem.region import Region

_SUBSYSTEMS = (
    pmsignal.shmem_areas,
    activity.shmem_areas,
    cancel_keys.shmem_areas,
    worker_slots.shmem_areas,
    engine_areas,
)


def make_region(settings: Settings, generation: int) -> Region:
    """A new generation of shared memory with every subsystem's part made ready."""
    areas = [area for subsystem in _SUBSYSTEMS for area in subsystem(settings)]
    region = Region.create(areas, name=f"crashbed:{settings.run_name}:gen{generation}", generation=generation)
    engine_init(region, settings)
    return region
