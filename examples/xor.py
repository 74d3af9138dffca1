"""XOR, the smallest thing that one layer cannot learn and two can.

python examples/xor.py                                   prints the table that it has learnt
holdfast launch --nproc-per-node 2 examples/xor.py
"""

import argparse

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim

TABLE = hf.datasets.ArrayDataset(
    inputs=np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32),
    targets=np.array([0, 1, 1, 0]),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16, help="of the global batch")
    parser.add_argument("--lr", type=float, default=0.03)
    args = parser.parse_args()

    job = hf.init()
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    job.prepare(model, optimizer)

    # One epoch of the four rows over and over, in an order of the job's.
    train = TABLE.subset(np.arange(args.steps * args.batch_size) % len(TABLE))
    for inputs, targets in job.batches(train, args.batch_size, epochs=1):
        scores = model(inputs).reshape(-1)
        job.backward(F.binary_cross_entropy_with_logits(scores, targets.float()))
        job.step()

    with hf.no_grad():
        inputs = hf.tensor(TABLE.inputs, device=job.device)
        found = model(inputs).sigmoid().reshape(-1).tolist()
    if job.rank == 0:
        for (a, b), right, value in zip(TABLE.inputs, TABLE.targets, found, strict=True):
            print(f"{a:.0f} xor {b:.0f} = {right}    the network says {value:.3f}")
    job.log(worst_error=max(abs(x - y) for x, y in zip(found, TABLE.targets, strict=True)))


if __name__ == "__main__":
    main()
