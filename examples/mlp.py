"""A multi-layer perceptron on Fashion-MNIST, with what keeps one from learning by heart.

python examples/mlp.py
holdfast launch --nproc-per-node 2 examples/mlp.py

Dropout, weight decay on the matrices but not on the biases (AdamW), gradients clipped by their norm
after they were summed over the ranks, and a rate that warms up for the first tenth of the steps and
falls along half a cosine.
"""

import argparse
from typing import Any

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


def mlp(width: int, dropout: float) -> nn.Sequential:
    """Two hidden layers of `width`; 669,706 parameters at 512."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10),
    )


def accuracy(job: hf.Job, model: nn.Module, dataset: hf.datasets.ArrayDataset) -> float:
    """The fraction of `dataset` that is classified right, without dropout."""
    model.eval()
    with hf.no_grad():
        right = sum(
            float((model(images).argmax(1) == labels).sum().item())
            for images, labels in job.shard(dataset)
        )
    model.train()
    return job.sum(right) / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--batch-size", type=int, default=128, help="of the global batch")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--clip-norm", type=float, default=1.0, help="of all gradients together")
    args = parser.parse_args()

    job = hf.init()
    train, test = hf.datasets.fashion_mnist()
    train = train.subset(np.arange(args.samples))
    model = mlp(args.width, args.dropout).to(job.device)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 10, total, "cosine")
    job.prepare(model, optimizer, schedule)

    for images, labels in job.batches(train, args.batch_size, args.epochs):
        job.backward(F.cross_entropy(model(images), labels))
        job.step(clip_norm=args.clip_norm)
        schedule.step()
        if job.ends_epoch:
            job.log(test_accuracy=accuracy(job, model, test))


if __name__ == "__main__":
    main()
