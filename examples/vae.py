"""A variational autoencoder on Fashion-MNIST: clothes from 16 numbers, and numbers from clothes.

python examples/vae.py                                   samples.png, reconstructions.png in the run
holdfast launch --nproc-per-node 2 examples/vae.py

The encoder gives each image a normal distribution over codes, the decoder makes an image of a code;
they learn together to say as much as they can of the image in as few nats of code. The method is
that of Kingma and Welling, "Auto-encoding variational Bayes" (2014).

A code drawn from the prior often lies between the classes, and so does its image. To draw clothes
of a class, codes are drawn from the normal distribution that fits those of the class's images
(Ghosh, Sajjadi, Vergari, Black and Schölkopf, "From variational to deterministic autoencoders",
2020).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


class VAE(nn.Module):
    """Convolutions down to 7x7 and a code of `latent` numbers; the same way back."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 64 * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )

    def encode(self, images: hf.Tensor) -> tuple[hf.Tensor, hf.Tensor]:
        """The mean and the logarithm of the variance of each image's code, both (N, latent)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: hf.Tensor) -> hf.Tensor:
        """The images of codes (N, latent), of 0 to 1."""
        images: hf.Tensor = self.decoder(codes).sigmoid()
        return images

    def loss(self, images: hf.Tensor) -> hf.Tensor:
        """The nats that an image costs, in the mean: to tell its code, and to correct its pixels.

        Pixels lie in 0 to 1 and are taken for probabilities, as is usual.
        """
        mean, log_variance = self.encode(images)
        # The noise is outside of what is differentiated: gradients pass through mean and variance.
        code = mean + (0.5 * log_variance).exp() * hf.randn(*mean.shape, device=mean.device)
        again = self.decoder(code)
        pixels = F.binary_cross_entropy_with_logits(again, images, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (pixels + divergence) / len(images)


def drawn(job: hf.Job, model: VAE, dataset: hf.datasets.ArrayDataset, rows: int) -> hf.Tensor:
    """Images from codes like those of `dataset`'s images, a column for each class."""
    rng = np.random.default_rng(0)
    columns = []
    for label in range(len(dataset.classes)):
        images, _ = dataset[np.flatnonzero(dataset.targets == label)]
        codes = model.encode(hf.tensor(images, device=job.device))[0].cpu().numpy()
        columns.append(rng.multivariate_normal(codes.mean(axis=0), np.cov(codes.T), size=rows))
    codes = np.stack(columns, axis=1).reshape(rows * len(columns), -1).astype(np.float32)
    return model.decode(hf.tensor(codes, device=job.device))


def write_sheet(path: Path, images: hf.Tensor, columns: int) -> None:
    """Write (rows * columns, 1, 28, 28) images of 0 to 1, row by row, three times their size."""
    grid = images.cpu().numpy().reshape(-1, columns, 28, 28).swapaxes(1, 2)
    sheet = grid.reshape(-1, columns * 28).repeat(3, axis=0).repeat(3, axis=1)
    imsave(path, sheet, cmap="gray_r", vmin=0, vmax=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--test-samples", type=int, default=10_000, help="test on so many")
    parser.add_argument("--batch-size", type=int, default=64, help="of the global batch")
    parser.add_argument("--latent", type=int, default=16, help="numbers in a code")
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    job = hf.init()
    # Bytes become 0 to 1, instead of numbers of mean 0 and variance 1.
    unit = hf.datasets.Normalize(mean=0.0, std=1.0)
    train, test = (replace(part, transform=unit) for part in hf.datasets.fashion_mnist())
    train, test = train.subset(np.arange(args.samples)), test.subset(np.arange(args.test_samples))
    model = VAE(args.latent).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    job.prepare(model, optimizer, schedule)

    for images, _ in job.batches(train, args.batch_size, args.epochs):
        job.backward(model.loss(images))
        job.step()
        schedule.step()
        if job.ends_epoch:
            with hf.no_grad():
                nats = sum(
                    model.loss(images).item() * len(images) for images, _ in job.shard(test, 250)
                )
            job.log(test_nats=job.sum(nats) / len(test))

    if job.rank == 0 and job.run_dir is not None:
        with hf.no_grad():
            some = train.subset(np.arange(min(len(train), 10_000)))
            write_sheet(job.run_dir / "samples.png", drawn(job, model, some, rows=10), columns=10)
            # A row of images, and below it what is left of each after its code.
            images = hf.tensor(test[np.arange(50)][0], device=job.device)
            again = model.decode(model.encode(images)[0])
            pairs = hf.stack([images.reshape(5, 10, 784), again.reshape(5, 10, 784)], dim=1)
            write_sheet(job.run_dir / "reconstructions.png", pairs, columns=10)


if __name__ == "__main__":
    main()
