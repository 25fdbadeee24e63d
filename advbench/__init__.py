"""advbench: how far can an image classifier and its adversarial-example detector be trusted?"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advbench.api import Result as Result, evaluate as evaluate
    from advbench.errors import AdvbenchError as AdvbenchError, BadData as BadData, BadSetting as BadSetting

__version__ = version("advbench")
_WHERE = {
    "evaluate": "advbench.api",
    "Result": "advbench.api",
    "AdvbenchError": "advbench.errors",
    "BadSetting": "advbench.errors",
    "BadData": "advbench.errors",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: `import advbench` alone stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'advbench' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
