"""CorR-PO: correlation-regularised group policy optimisation, on TRL; the extra ``train``.

The names below are imported on first use, so that ``import inversion.corrpo`` loads neither torch nor TRL.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inversion.corrpo.config import CorrPOConfig
    from inversion.corrpo.reward import InversionReward
    from inversion.corrpo.signals import Exact, LastLayer
    from inversion.corrpo.trainer import CorrPOTrainer

_HOME = {
    "CorrPOConfig": "config",
    "CorrPOTrainer": "trainer",
    "Exact": "signals",
    "InversionReward": "reward",
    "LastLayer": "signals",
}
__all__ = ["CorrPOConfig", "CorrPOTrainer", "Exact", "InversionReward", "LastLayer"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use; without TRL, say which extra to install."""
    if name not in _HOME:
        raise AttributeError(f"module 'inversion.corrpo' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"inversion.corrpo.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "trl":
            raise
        from inversion.errors import InputError

        raise InputError(f"{name} needs TRL, which is not installed; install inversion[train].") from error
    globals()[name] = value
    return value
