"""The engine: hand a plan's work to one or many workers, and put what comes back on disk shard by shard.

It knows what a plan can do (:class:`inversion.engine.loop.Plan`), not what is measured. Workers measure; the one
process that drives them writes.
"""

from inversion.engine.loop import Plan, ShardError, run_shards
from inversion.engine.pools import InProcess, Pool, Workers, open_pool
from inversion.engine.watch import LOG_FORMATS, Watch

__all__ = [
    "LOG_FORMATS",
    "InProcess",
    "Plan",
    "Pool",
    "ShardError",
    "Watch",
    "Workers",
    "open_pool",
    "run_shards",
]
