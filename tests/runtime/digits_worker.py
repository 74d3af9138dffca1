"""A training script for the tests: a small convolutional network on scikit-learn's digits."""

import argparse
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.amp import GradScaler


def digits():
    """Return what `hf.datasets.digits` does, from scikit-learn's file.

    To import scikit-learn takes a second, and the tests start many workers.
    """
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, np.float32, delimiter=",")
    inputs, targets = rows[:, :64].reshape(-1, 1, 8, 8) / 16, rows[:, 64].astype(np.int64)
    everything = hf.datasets.ArrayDataset(inputs, targets)
    is_test = np.arange(len(everything)) % 5 == 0
    return everything.subset(~is_test), everything.subset(is_test)


def as_asked(images, float64):
    return hf.tensor(images.array.astype(np.float64)) if float64 else images


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--optimizer", choices=["SGD", "Adam"], default="SGD")
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--bucket-bytes", type=int, default=4096)
    parser.add_argument("--compression")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--sum-within", action="store_true", help="job.sum before each step")
    parser.add_argument("--clip-norm", type=float)
    parser.add_argument("--scale", type=float, help="of the loss, to begin with")
    parser.add_argument("--overflow-at", type=int, default=-1, help="a step of endless gradients")
    parser.add_argument("--averages", type=Path, help="where they are written in the end")
    parser.add_argument("--kill-at", type=int, default=-1, help="end by SIGKILL after this step")
    parser.add_argument("--raise-at", type=int, default=-1)
    parser.add_argument("--break-at", type=int, default=-1)
    parser.add_argument("--finish", action="store_true", help="call job.finish() after the loop")
    parser.add_argument("--on-rank", type=int, default=-1, help="the rank to end; -1: all")
    args = parser.parse_args()

    job = hf.init()
    train, test = digits()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, args.hidden),
        nn.ReLU(),
        nn.Linear(args.hidden, 10),
    )
    if args.float64:
        model.to(np.float64)
    optimizer: optim.Optimizer
    if args.optimizer == "SGD":
        optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    else:
        optimizer = optim.Adam(model.parameters(), lr=args.lr / 10)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    scaler = GradScaler(init_scale=args.scale, growth_interval=7) if args.scale else None
    averages = None
    if args.averages:
        move = optim.swa_utils.get_ema_multi_avg_fn(0.9)
        averages = optim.swa_utils.AveragedModel(model, multi_avg_fn=move)
    job.prepare(
        model,
        optimizer,
        schedule,
        checkpoint_every=args.checkpoint_every,
        bucket_bytes=args.bucket_bytes,
        compression=args.compression,
        scaler=scaler,
        averages=averages,
    )
    for images, labels in job.batches(
        train, args.batch_size, args.epochs, accumulate=args.accumulate
    ):
        loss = F.cross_entropy(model(as_asked(images, args.float64)), labels)
        job.backward(loss * 1e38 if job.steps == args.overflow_at else loss)
        if args.sum_within:
            assert job.sum(1.0) == job.world_size
        if job.step(clip_norm=args.clip_norm):
            schedule.step()
            if averages is not None:
                averages.update_parameters(model)
        if args.on_rank in (-1, job.rank):
            if job.steps == args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if job.steps == args.raise_at:
                raise ArithmeticError(f"asked for at step {job.steps}")
        if job.steps == args.break_at:
            break
        if job.ends_epoch:
            with hf.no_grad():
                right = sum(
                    float((model(as_asked(x, args.float64)).argmax(1) == y).sum().item())
                    for x, y in job.shard(test)
                )
            job.log(test_accuracy=job.sum(right) / len(test))
    if averages is not None:
        flat = np.concatenate([p.array.ravel() for p in averages.parameters()])
        np.save(f"{args.averages}.{job.rank}.npy", flat)
    if args.finish:
        job.finish()
