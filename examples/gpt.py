"""A small GPT learns to write Python, on the text of Python's own standard library.

python examples/gpt.py
python examples/gpt.py --accumulate 4 --recompute                       where memory is short
python examples/gpt.py --precision bfloat16                             on a GPU
holdfast launch --nproc-per-node 2 examples/gpt.py

Characters in, characters out: a decoder with normalisation before each part, attention to what came
before, and rotary positions; AdamW with a warm-up and half a cosine, and gradients of a limited
norm. The figure is bits per character: what a text that the model has not seen would take,
compressed with it.
"""

import argparse
import math

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.runtime.corpora import Alphabet, Text, TokenDataset


class Attention(nn.Module):
    """Each character looks at itself and those before it, by several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: hf.Tensor) -> hf.Tensor:
        """Return (k, T, width) for (k, T, width)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project(x).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(F.rotary(query), F.rotary(key), value, is_causal=True)
        looked: hf.Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return looked


class Block(nn.Module):
    """Attention, then two linear layers with a GELU between, each added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: hf.Tensor) -> hf.Tensor:
        """Return (k, T, width) for (k, T, width)."""
        x = x + self.attention(self.norm1(x))
        fed: hf.Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + fed


class GPT(nn.Module):
    """Scores of what comes next after each character of (k, T)."""

    def __init__(
        self, characters: int, width: int, heads: int, layers: int, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.characters = nn.Embedding(characters, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # What is added to the same sum many times begins smaller, as in GPT-2.
                added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if added else 0.02)

    def forward(self, characters: hf.Tensor) -> hf.Tensor:
        """Return (k, T, characters)."""
        x: hf.Tensor = self.characters(characters)
        for block in self.blocks:
            x = hf.checkpoint(block, x) if self.recompute else block(x)
        scores: hf.Tensor = self.head(self.norm(x))
        return scores


def random_windows(text: Text, length: int, count: int) -> TokenDataset:
    """Return `count` samples that begin anywhere in the text; the same ones each time."""
    everywhere = text.windows(length, stride=1)
    starts = np.random.default_rng(0).integers(len(everywhere), size=count)
    return TokenDataset(everywhere.inputs[starts], everywhere.targets[starts])


def bits_per_character(job: hf.Job, model: nn.Module, dataset: TokenDataset) -> float:
    """The mean over all characters of `dataset` of -log2 of the probability they were given."""
    with hf.no_grad():
        nats = sum(
            F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum").item()
            for inputs, targets in job.shard(dataset, batch_size=64)
        )
    return job.sum(nats) / dataset.targets.size / math.log(2)


def sample(
    model: nn.Module, alphabet: Alphabet, begin: str, length: int, *, window: int, device: str
) -> str:
    """Return `begin` and `length` characters that the model writes after it."""
    rng = np.random.default_rng(0)
    tokens = alphabet.encode(begin).astype(np.int64)
    with hf.no_grad():
        for _ in range(length):
            scores = model(hf.tensor(tokens[None, -window:], device=device))[0, -1]
            probabilities = scores.double().softmax(-1).cpu().numpy()
            tokens = np.append(tokens, rng.choice(len(alphabet), p=probabilities))
    return alphabet.decode(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--length", type=int, default=128, help="of a sample, in characters")
    parser.add_argument("--batch-size", type=int, default=16, help="of the global batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--test-every", type=int, default=500, help="in steps")
    parser.add_argument("--accumulate", type=int, default=1, help="pieces of a rank's batch")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument("--recompute", action="store_true", help="blocks keep only their input")
    args = parser.parse_args()

    job = hf.init()
    text = hf.datasets.standard_library_text()
    train, held_out = text.split(0.02)  # the end: the modules of the alphabet's last letters
    windows = random_windows(train, args.length, args.steps * args.batch_size)
    test = held_out.windows(args.length)
    model = GPT(len(text.alphabet), args.width, args.heads, args.layers, args.recompute)
    model.to(job.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]  # biases, and the norms' weights
    optimizer = optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    schedule = optim.lr_scheduler.WarmupLR(optimizer, args.steps // 20, args.steps, end_factor=0.1)
    half = hf.float16 if args.precision == "float16" else hf.bfloat16
    # float16 has so small a range that gradients are carried at a multiple of their size.
    scaler = hf.amp.GradScaler() if args.precision == "float16" else None
    job.prepare(model, optimizer, schedule, scaler=scaler, checkpoint_every=args.test_every)

    for inputs, targets in job.batches(
        windows, args.batch_size, epochs=1, accumulate=args.accumulate
    ):
        with hf.amp.autocast(job.device, half, enabled=args.precision != "float32"):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        job.backward(loss)
        if not job.step(clip_norm=1.0):
            continue
        schedule.step()
        if job.steps % args.test_every == 0 or job.ends_epoch:
            job.log(bits_per_character=bits_per_character(job, model, test))

    if job.rank == 0:
        print(sample(model, text.alphabet, "def ", 400, window=args.length, device=job.device))


if __name__ == "__main__":
    main()
