"""Loss scaling: gradients too small for 16 bits are carried at a multiple of their size.

Rule: whether a step is skipped is decided on the gradients that the optimizer reads. In a job these
are the sums over the ranks, of the same bits everywhere: all ranks decide alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim import Optimizer
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

LARGEST = float(np.finfo(np.float32).max)
"""No scale grows beyond it: the loss is a float32."""


@dataclass
class _Progress:
    """How far an optimizer has come since the last `update`."""

    finite: bool
    stepped: bool = False


class GradScaler:
    """Scales the loss, unscales the gradients, and skips steps whose gradients overflowed.

    The scale is halved (`backoff_factor`) after such a step, and doubled (`growth_factor`) after
    `growth_interval` steps in a row without one. With PyTorch's names (Micikevicius et al., "Mixed
    precision training", 2018). The scale is a number of the host's, whatever the `device`.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not growth_factor > 1:
            raise UsageError(f"growth_factor is above 1; found {growth_factor}")
        if not 0 < backoff_factor < 1:
            raise UsageError(f"backoff_factor lies between 0 and 1; found {backoff_factor}")
        self.device = device
        self._scale, self._growth_tracker = float(init_scale), 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval, self._enabled = growth_interval, enabled
        self._progress: dict[Optimizer, _Progress] = {}

    def scale(self, outputs: Any) -> Any:
        """Return a tensor, or those of a list or tuple, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(map(self.scale, outputs))
        raise UsageError(f"scale takes a tensor, or a list or tuple of them; found {type(outputs)}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the scale, so that they can be clipped before `step`.

        To be called once before each `step`, or not at all.
        """
        if not self._enabled:
            return
        if optimizer in self._progress:
            raise UsageError("unscale_ was called already, or step, since the last update()")
        if optimizer.arena.dtype == np.float16:
            raise UsageError(
                "gradients of float16 cannot be unscaled: keep the weights in float32, and compute "
                "in float16"
            )
        progress = self._progress[optimizer] = _Progress(finite=True)
        mine = {id(p) for p in optimizer.parameters}
        others = [p for p in optimizer.arena.parameters if id(p) not in mine]
        factor = 1 / self._scale

        def unscale(x: Array, out: Array) -> None:
            progress.finite = progress.finite and bool(np.isfinite(x).all())
            np.multiply(x, factor, out=out)

        optimizer.arena.rewrite(unscale, optimizer.arena.ready(others))

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        """Unscale, unless that is done, and let `optimizer` step if its gradients are finite.

        Returns what the optimizer's step does, None if it was skipped.
        """
        if not self._enabled:
            return optimizer.step(closure)
        if closure is not None:
            raise UsageError(
                "GradScaler.step takes no closure: its gradients would not be unscaled"
            )
        if optimizer not in self._progress:
            self.unscale_(optimizer)
        progress = self._progress[optimizer]
        if progress.stepped:
            raise UsageError("step was called already since the last update()")
        progress.stepped = True
        return optimizer.step() if progress.finite else None

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the scale to how the steps since the last update went, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._progress:
            raise UsageError("update() comes after step(): no gradients were looked at")
        elif not all(progress.finite for progress in self._progress.values()):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                self._growth_tracker = 0
                grown = self._scale * self._growth_factor
                if grown <= LARGEST:
                    self._scale = grown
        self._progress.clear()

    def get_scale(self) -> float:
        """Return the scale, 1 if disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """Return by what the scale grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set by what the scale grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """Return by what the scale is multiplied after a skipped step."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set by what the scale is multiplied after a skipped step."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Return after how many steps in a row the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many steps in a row the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Return whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and what it follows, as data that JSON can hold; empty if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; raises UsageError for that of a disabled one."""
        if not self._enabled:
            return
        if not state_dict:
            raise UsageError("this state is empty: it is that of a GradScaler that was disabled")
        self._scale = state_dict["scale"]
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]
