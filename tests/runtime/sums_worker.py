"""A training script for the tests: it sums and logs between backward and step.

On rank 1 no gradient reaches the middle layer, so its buckets wait for the step there.
"""

import argparse

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--compression")
    args = parser.parse_args()

    job = hf.init()
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(96, 20)).astype(np.float32)
    dataset = hf.datasets.ArrayDataset(inputs, rng.integers(0, 4, 96))
    first, middle, last = nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 4)
    model = nn.Sequential(first, middle, last)
    job.prepare(
        model,
        optim.SGD(model.parameters(), lr=0.1),
        checkpoint_every=0,
        bucket_bytes=1,
        compression=lambda bucket: args.compression,
    )
    for x, y in job.batches(dataset, batch_size=24, epochs=2):
        hidden = first(x) if job.rank == 1 else middle(first(x))
        job.backward(F.cross_entropy(last(F.relu(hidden)), y))
        total = job.sum(job.rank + 1)
        assert total == job.world_size * (job.world_size + 1) / 2, total
        job.log(steps_before=job.steps)
        job.step()
        assert job.sum(1) == job.world_size
