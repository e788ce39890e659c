"""Measure the entropy-gradient inversion of causal language models.

The names below are the public interface. They are imported on first use, so that ``import inversion`` and
``inversion --help`` load neither torch nor xarray.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from inversion._version import __version__

if TYPE_CHECKING:
    from inversion.display import show_tokens
    from inversion.errors import InputError
    from inversion.measure import measure_run
    from inversion.models import load_model
    from inversion.probes import probe
    from inversion.responses import Generation, read_problems
    from inversion.runs import load_responses, load_run
    from inversion.statistics import (
        compare,
        controls,
        correlate,
        layer_map,
        partial,
        plan_sample_size,
        segments,
        specification_curve,
        trajectory,
        within_between,
    )

_STATISTICS = (
    "compare",
    "controls",
    "correlate",
    "layer_map",
    "partial",
    "plan_sample_size",
    "segments",
    "specification_curve",
    "trajectory",
    "within_between",
)
_HOME = {
    "Generation": "inversion.responses",
    "InputError": "inversion.errors",
    "load_model": "inversion.models",
    "load_responses": "inversion.runs",
    "load_run": "inversion.runs",
    "measure_run": "inversion.measure",
    "probe": "inversion.probes",
    "read_problems": "inversion.responses",
    "show_tokens": "inversion.display",
    **dict.fromkeys(_STATISTICS, "inversion.statistics"),
}
__all__ = [*sorted(_HOME), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name, or a submodule such as ``inversion.plots``, on first use."""
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _submodules():
        return import_module(f"inversion.{name}")
    raise AttributeError(f"module 'inversion' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names and the submodules, also those not imported yet."""
    return sorted({*__all__, *_submodules()})


def _submodules() -> set[str]:
    return {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}
