"""The smallest network: one sample, 26 parameters, gradient descent until it has converged.

    python examples/miniflow.py

A 3-4-2 network (sigmoid, then tanh) learns to answer [1, 2, 3] with [-0.85, 0.72]. Every few epochs
its output is printed, and at the end the graph of the loss in topological order.
"""

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.graph import topological_order
from holdfast.optim import SGD

EPOCHS = 5_000
CONVERGED = 1e-10


class Miniflow(nn.Module):
    """Three inputs, four hidden units, two outputs between -1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.output = nn.Linear(4, 2)

    def forward(self, x: core.Tensor) -> core.Tensor:
        """Return (2,) for (3,)."""
        hidden: core.Tensor = self.hidden(x)
        output: core.Tensor = self.output(hidden.sigmoid())
        return output.tanh()


def main() -> None:
    core.manual_seed(0)
    x = core.tensor([1.0, 2.0, 3.0])
    target = core.tensor([-0.85, 0.72])
    model = Miniflow()
    optimizer = SGD(model.parameters(), lr=0.5)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, target [-0.85, 0.72]")

    for epoch in range(EPOCHS):
        optimizer.zero_grad()
        output = model(x)
        loss = F.mse_loss(output, target)
        if epoch % 20 == 0 or loss.item() < CONVERGED:
            first, second = output.tolist()
            print(f"epoch {epoch:4d}: output [{first:+.5f}, {second:+.5f}], loss {loss.item():.3e}")
        if loss.item() < CONVERGED:
            break
        loss.backward()
        optimizer.step()
    else:
        raise SystemExit(f"not converged after {EPOCHS} epochs: loss {loss.item():.3e}")

    print("\nthe graph of the loss, in topological order:")
    for step in topological_order(loss, dict(model.named_parameters())):
        print(f"  {step}")


if __name__ == "__main__":
    main()
