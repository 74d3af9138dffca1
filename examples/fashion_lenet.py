"""LeNet on Fashion-MNIST, the main job: runs alone, and data-parallel under `holdfast launch`.

python examples/fashion_lenet.py                                        one process
holdfast launch --nproc-per-node 2 examples/fashion_lenet.py            two workers, one sum
"""

import argparse

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


def lenet() -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling, for (N, 1, 28, 28) images: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def accuracy(job: hf.Job, model: nn.Module, dataset: hf.datasets.ArrayDataset) -> float:
    """The fraction of `dataset` that is classified right; each rank looks at its part."""
    with hf.no_grad():
        right = sum(
            float((model(images).argmax(1) == labels).sum().item())
            for images, labels in job.shard(dataset)
        )
    return job.sum(right) / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256, help="of the global batch")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--checkpoint-every", type=int, default=100, help="in steps")
    args = parser.parse_args()

    job = hf.init()
    train, test = hf.datasets.fashion_mnist()
    model = lenet().to(job.device)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    job.prepare(model, optimizer, schedule, checkpoint_every=args.checkpoint_every)

    for images, labels in job.batches(train, args.batch_size, args.epochs):
        loss = F.cross_entropy(model(images), labels)
        job.backward(loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            job.log(test_accuracy=accuracy(job, model, test))


if __name__ == "__main__":
    main()
