"""Mixed precision: the public face of `holdfast.core.amp` and `holdfast.core.scaler`."""

from holdfast.core.amp import autocast
from holdfast.core.scaler import GradScaler

__all__ = ["GradScaler", "autocast"]
