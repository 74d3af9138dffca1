"""An LSTM learns to write Python: a language model of characters, on the standard library's text.

python examples/lstm_characters.py
holdfast launch --nproc-per-node 2 examples/lstm_characters.py

It says how likely each character is to come next. The figure is bits per character: what a text
that the model has not seen would take, compressed with it. (gzip takes about two.)
"""

import argparse
import math

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.runtime.corpora import Alphabet, Text, TokenDataset

State = tuple[hf.Tensor, hf.Tensor]


class Characters(nn.Module):
    """Scores of what comes next after each character of (k, T)."""

    def __init__(self, characters: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width // 2)
        self.lstm = nn.LSTM(width // 2, width, layers, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, characters: hf.Tensor, state: State | None = None) -> tuple[hf.Tensor, State]:
        """Return (k, T, characters), and the state to go on from."""
        read, state = self.lstm(self.embedding(characters), state)
        return self.head(read), state


def random_windows(text: Text, length: int, count: int) -> TokenDataset:
    """Return `count` samples that begin anywhere in the text; the same ones each time."""
    everywhere = text.windows(length, stride=1)
    starts = np.random.default_rng(0).integers(len(everywhere), size=count)
    return TokenDataset(everywhere.inputs[starts], everywhere.targets[starts])


def bits_per_character(job: hf.Job, model: nn.Module, dataset: TokenDataset) -> float:
    """The mean over all characters of `dataset` of -log2 of the probability they were given."""
    with hf.no_grad():
        nats = sum(
            F.cross_entropy(
                model(inputs)[0].flatten(0, 1), targets.flatten(), reduction="sum"
            ).item()
            for inputs, targets in job.shard(dataset, batch_size=64)
        )
    return job.sum(nats) / dataset.targets.size / math.log(2)


def sample(model: nn.Module, alphabet: Alphabet, begin: str, length: int, *, device: str) -> str:
    """Return `begin` and `length` characters that the model writes after it."""
    rng = np.random.default_rng(0)
    state, text = None, begin
    given = alphabet.encode(begin)
    with hf.no_grad():
        for _ in range(length):
            scores, state = model(hf.tensor(given[None], device=device), state)
            probabilities = scores[0, -1].double().softmax(-1).cpu().numpy()
            given = rng.choice(len(alphabet), size=1, p=probabilities)
            text += alphabet.decode(given)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--length", type=int, default=128, help="of a sample, in characters")
    parser.add_argument("--batch-size", type=int, default=32, help="of the global batch")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--width", type=int, default=256, help="of the LSTM")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--test-every", type=int, default=500, help="in steps")
    args = parser.parse_args()

    job = hf.init()
    text = hf.datasets.standard_library_text()
    train, held_out = text.split(0.02)  # the end: the modules of the alphabet's last letters
    windows = random_windows(train, args.length, args.steps * args.batch_size)
    test = held_out.windows(args.length)
    model = Characters(len(text.alphabet), args.width, args.layers).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, args.steps // 20, args.steps)
    job.prepare(model, optimizer, schedule, checkpoint_every=args.test_every)

    for inputs, targets in job.batches(windows, args.batch_size, epochs=1):
        scores, _ = model(inputs)
        job.backward(F.cross_entropy(scores.flatten(0, 1), targets.flatten()))
        job.step(clip_norm=1.0)
        schedule.step()
        if job.steps % args.test_every == 0 or job.ends_epoch:
            job.log(bits_per_character=bits_per_character(job, model, test))

    if job.rank == 0:
        print(sample(model, text.alphabet, "def ", 400, device=job.device))


if __name__ == "__main__":
    main()
