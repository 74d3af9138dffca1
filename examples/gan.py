"""A generative adversarial network on Fashion-MNIST: one network draws, another tells it from real.

python examples/gan.py                                   samples.png in the run's directory
holdfast launch --nproc-per-node 2 examples/gan.py

Two networks are trained under one job: they lie in one arena, under one optimizer. Each has a loss
of its own, and each loss reaches the weights of its own network alone, so the gradient of their sum
is both gradients: one backward, one sum over the ranks, one step of both at once.

Such simultaneous steps circle around the solution, unless the discriminator is kept from being
steep at the real images. The penalty on its slope there (Mescheder, Geiger and Nowozin, "Which
training methods for GANs do actually converge?", 2018) is the gradient of a gradient.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim

CLASSES = len(hf.datasets.FASHION_MNIST_CLASSES)


class Generator(nn.Module):
    """From noise (N, latent) and the classes asked for (N,) to images (N, 1, 28, 28) of -1 to 1.

    The layers are those of Radford, Metz and Chintala, "Unsupervised representation learning with
    deep convolutional generative adversarial networks" (2016), two sizes smaller.
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent + CLASSES, 2 * width * 7 * 7, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise: hf.Tensor, labels: hf.Tensor) -> hf.Tensor:
        images: hf.Tensor = self.layers(hf.cat([noise, F.one_hot(labels, CLASSES).float()], dim=1))
        return images


class Discriminator(nn.Module):
    """From images and the classes that they are said to be of to scores (N,), above 0 for real."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * 7 * 7, CLASSES),
        )

    def forward(self, images: hf.Tensor, labels: hf.Tensor) -> hf.Tensor:
        scores: hf.Tensor = self.layers(images).gather(1, labels.reshape(-1, 1)).reshape(-1)
        return scores


class GAN(nn.Module):
    """Both networks, and what they are trained by."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.generator = Generator(latent, width)
        self.discriminator = Discriminator(width)

    def losses(
        self, real: hf.Tensor, labels: hf.Tensor, noise: hf.Tensor, penalty: float
    ) -> tuple[hf.Tensor, hf.Tensor]:
        """The generator's and the discriminator's, each with a way to its own weights only."""
        fake = self.generator(noise, labels)
        self.discriminator.requires_grad_(False)  # the gradient passes through, and leaves none
        generator_loss = F.softplus(-self.discriminator(fake, labels)).mean()
        self.discriminator.requires_grad_(True)

        real.requires_grad = True
        on_real = self.discriminator(real, labels)
        on_fake = self.discriminator(fake.detach(), labels)
        (slope,) = hf.grad(on_real.sum(), real, create_graph=True)
        assert slope is not None
        discriminator_loss = (
            F.softplus(-on_real).mean()
            + F.softplus(on_fake).mean()
            + 0.5 * penalty * slope.square().sum((1, 2, 3)).mean()
        )
        return generator_loss, discriminator_loss

    def draw(self, noise: hf.Tensor, labels: hf.Tensor) -> hf.Tensor:
        """Images of 0 to 1, normalised by the statistics of all batches before."""
        self.generator.eval()
        with hf.no_grad():
            images: hf.Tensor = self.generator(noise, labels) * 0.5 + 0.5
        self.generator.train()
        return images


def distance(drawn: hf.Tensor, real: hf.Tensor) -> float:
    """How far off the mean image and the pixels' deviations are: 0 for the right distribution.

    The root of the mean square over pixels, on the scale of 0 (white) to 1 (black).
    """
    mean = drawn.mean(0) - real.mean(0)
    deviation = drawn.std(0) - real.std(0)
    return float((mean.square() + deviation.square()).mean().sqrt().item())


def write_sheet(path: Path, images: hf.Tensor, columns: int) -> None:
    """Write (rows * columns, 1, 28, 28) images of 0 to 1, row by row, three times their size."""
    grid = images.cpu().numpy().reshape(-1, columns, 28, 28).swapaxes(1, 2)
    sheet = grid.reshape(-1, columns * 28).repeat(3, axis=0).repeat(3, axis=1)
    imsave(path, sheet, cmap="gray_r", vmin=0, vmax=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--batch-size", type=int, default=64, help="of the global batch")
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--penalty", type=float, default=1.0)
    args = parser.parse_args()

    job = hf.init()
    # Bytes become -1 to 1, as the generator's tanh gives them.
    signed = hf.datasets.Normalize(mean=0.5, std=0.5)
    train, test = (replace(part, transform=signed) for part in hf.datasets.fashion_mnist())
    train = train.subset(np.arange(args.samples))
    gan = GAN(args.latent, args.width).to(job.device)
    optimizer = optim.Adam(gan.parameters(), lr=args.lr, betas=(0.5, 0.99))
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    job.prepare(gan, optimizer, schedule)

    known = hf.tensor(test[np.arange(1000)][0], device=job.device)
    # The same ones at each look, a column for each class.
    rng = np.random.default_rng(0)
    seen = hf.randn(1000, args.latent, device=job.device, generator=rng)
    columns = hf.tensor(np.arange(1000) % CLASSES, device=job.device)
    for images, labels in job.batches(train, args.batch_size, args.epochs):
        noise = hf.randn(len(images), args.latent, device=job.device)
        generator_loss, discriminator_loss = gan.losses(images, labels, noise, args.penalty)
        job.backward(generator_loss + discriminator_loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            drawn = gan.draw(seen, columns)
            job.log(
                generator_loss=generator_loss.item(),
                discriminator_loss=discriminator_loss.item(),
                distance=distance(drawn, known * 0.5 + 0.5),
            )
            if job.rank == 0 and job.run_dir is not None:
                write_sheet(job.run_dir / "samples.png", drawn[:100], columns=10)


if __name__ == "__main__":
    main()
