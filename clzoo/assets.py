"""Where the hub entries and the recipes lie: inside the wheel, or at the top of a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_WHEEL = _PACKAGE / "_assets"
_ROOT = _WHEEL if _WHEEL.is_dir() else _PACKAGE.parent

HUB = _ROOT / "hub"
RECIPES = _ROOT / "recipes"
