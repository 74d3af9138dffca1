"""Logistic regression: two classes of Fashion-MNIST told apart by one linear layer.

python examples/logistic_regression.py --classes 0 1         T-shirts and trousers
holdfast launch --nproc-per-node 2 examples/logistic_regression.py
"""

import argparse

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


def pair(dataset: hf.datasets.ArrayDataset, classes: tuple[int, int]) -> hf.datasets.ArrayDataset:
    """The samples of two classes; the first is labelled 0, the second 1."""
    chosen = dataset.subset(np.isin(dataset.targets, classes))
    labels = (chosen.targets == classes[1]).astype(np.int64)
    return hf.datasets.ArrayDataset(chosen.inputs, labels, chosen.transform)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=100, help="of the global batch")
    parser.add_argument("--lr", type=float, default=0.01)
    args = parser.parse_args()

    job = hf.init()
    train, test = (pair(part, tuple(args.classes)) for part in hf.datasets.fashion_mnist())
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 1)).to(job.device)
    optimizer = optim.SGD(model.parameters(), lr=args.lr)
    job.prepare(model, optimizer)

    for images, labels in job.batches(train, args.batch_size, args.epochs):
        scores = model(images).reshape(-1)
        job.backward(F.binary_cross_entropy_with_logits(scores, labels.float()))
        job.step()
        if job.ends_epoch:
            with hf.no_grad():
                right = sum(
                    float(((model(x).reshape(-1) > 0) == (y > 0)).sum().item())
                    for x, y in job.shard(test)
                )
            job.log(test_accuracy=job.sum(right) / len(test))


if __name__ == "__main__":
    main()
