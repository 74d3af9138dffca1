"""A small residual network on Fashion-MNIST: batch normalization and connections that skip.

python examples/residual_cnn.py
python examples/residual_cnn.py --precision bfloat16     products in 16 bits, weights in 32
python examples/residual_cnn.py --precision float16      the same, and the loss is scaled
python examples/residual_cnn.py --recompute              less memory for more time
holdfast launch --nproc-per-node 2 examples/residual_cnn.py

The blocks are those of He, Zhang, Ren and Sun, "Deep residual learning for image recognition"
(2016). Each rank normalises by its own part of the batch, as is usual in data-parallel training.
"""

import argparse

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


class Block(nn.Module):
    """Two convolutions and what skips them: the input, or a 1x1 projection of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: hf.Tensor) -> hf.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(x))


class ResidualNet(nn.Module):
    """Three blocks at 28, 14 and 7 pixels, then the mean over the image; 77,754 parameters at 16.

    With `recompute`, what a block computes on the way is not kept for backward, but computed again:
    the loss is the same, but running statistics take each batch in twice.
    """

    def __init__(self, width: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)]
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: hf.Tensor) -> hf.Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = hf.checkpoint(block, x) if self.recompute and self.training else block(x)
        scores: hf.Tensor = self.head(x.mean(dim=(2, 3)))
        return scores


def accuracy(job: hf.Job, model: nn.Module, dataset: hf.datasets.ArrayDataset) -> float:
    """The fraction of `dataset` that is classified right, with the running statistics."""
    model.eval()
    with hf.no_grad():
        right = sum(
            float((model(images).argmax(1) == labels).sum().item())
            for images, labels in job.shard(dataset, batch_size=250)
        )
    model.train()
    return job.sum(right) / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--test-samples", type=int, default=10_000, help="test on so many")
    parser.add_argument("--batch-size", type=int, default=128, help="of the global batch")
    parser.add_argument("--width", type=int, default=16, help="channels of the first block")
    parser.add_argument("--lr", type=float, default=0.1)
    precisions = ["float32", "bfloat16", "float16"]
    parser.add_argument("--precision", choices=precisions, default="float32")
    parser.add_argument("--recompute", action="store_true")
    args = parser.parse_args()

    job = hf.init()
    train, test = hf.datasets.fashion_mnist()
    train, test = train.subset(np.arange(args.samples)), test.subset(np.arange(args.test_samples))
    model = ResidualNet(args.width, args.recompute).to(job.device)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=total)
    mixed = args.precision != "float32"
    lower = hf.float16 if args.precision == "float16" else hf.bfloat16
    # Gradients that are too small for float16 are carried at a multiple of their size.
    scaler = hf.amp.GradScaler() if args.precision == "float16" else None
    job.prepare(model, optimizer, schedule, scaler=scaler)

    for images, labels in job.batches(train, args.batch_size, args.epochs):
        with hf.amp.autocast(job.device, lower, enabled=mixed):
            loss = F.cross_entropy(model(images), labels)
        job.backward(loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            job.log(test_accuracy=accuracy(job, model, test))


if __name__ == "__main__":
    main()
