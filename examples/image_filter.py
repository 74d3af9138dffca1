"""A convolutional network as an image filter: it takes noise, or blur, off Fashion-MNIST's images.

python examples/image_filter.py                          filtered.png in the run's directory
python examples/image_filter.py --damage blur
holdfast launch --nproc-per-node 2 examples/image_filter.py

The network learns what to take away from the image rather than the image, after Zhang, Zuo, Chen,
Meng and Zhang, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising"
(2017). It is made of convolutions alone, so it filters images of any size.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


def noise(images: hf.Tensor) -> hf.Tensor:
    """Add Gaussian noise of a fifth of the way from white to black, other noise at each call."""
    noisy: hf.Tensor = images + 0.2 * hf.randn(*images.shape, device=images.device)
    return noisy


def blur(images: hf.Tensor) -> hf.Tensor:
    """Make each pixel the mean of the 3x3 around it."""
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


DAMAGES: dict[str, Callable[[hf.Tensor], hf.Tensor]] = {"noise": noise, "blur": blur}


class Filter(nn.Module):
    """Convolutions of 3x3 over (N, 1, H, W), whose result is taken away from the input."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, images: hf.Tensor) -> hf.Tensor:
        filtered: hf.Tensor = images - self.layers(images)
        return filtered


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in dB of a mean squared error, for pixels of 0 to 1."""
    return -10 * math.log10(error)


def write_sheet(path: Path, images: hf.Tensor, columns: int) -> None:
    """Write (rows * columns, 1, 28, 28) images of 0 to 1, row by row, three times their size."""
    grid = images.cpu().numpy().reshape(-1, columns, 28, 28).swapaxes(1, 2)
    sheet = grid.reshape(-1, columns * 28).repeat(3, axis=0).repeat(3, axis=1)
    imsave(path, sheet, cmap="gray_r", vmin=0, vmax=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--test-samples", type=int, default=10_000, help="test on so many")
    parser.add_argument("--batch-size", type=int, default=32, help="of the global batch")
    parser.add_argument("--damage", choices=list(DAMAGES), default="noise")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()

    job = hf.init()
    # Bytes become 0 to 1, instead of numbers of mean 0 and variance 1.
    unit = hf.datasets.Normalize(mean=0.0, std=1.0)
    train, test = (replace(part, transform=unit) for part in hf.datasets.fashion_mnist())
    train, test = train.subset(np.arange(args.samples)), test.subset(np.arange(args.test_samples))
    damage = DAMAGES[args.damage]
    model = Filter(args.width, args.depth).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    job.prepare(model, optimizer, schedule)

    for images, _ in job.batches(train, args.batch_size, args.epochs):
        job.backward(F.mse_loss(model(damage(images)), images))
        job.step()
        schedule.step()
        if job.ends_epoch:
            before = after = 0.0
            with hf.no_grad():
                for images, _ in job.shard(test, 250):
                    damaged = damage(images)
                    before += F.mse_loss(damaged, images).item() * len(images) / len(test)
                    after += F.mse_loss(model(damaged), images).item() * len(images) / len(test)
            job.log(psnr_before=psnr(job.sum(before)), psnr_after=psnr(job.sum(after)))

    if job.rank == 0 and job.run_dir is not None:
        with hf.no_grad():
            # Three rows: as they are, damaged, and filtered.
            images = hf.tensor(test[np.arange(10)][0], device=job.device)
            damaged = damage(images)
            rows = hf.cat([images, damaged, model(damaged)])
            write_sheet(job.run_dir / "filtered.png", rows, columns=10)


if __name__ == "__main__":
    main()
