"""A small BERT: pre-trained on lines of Python, then fine-tuned to find those tampered with.

python examples/bert.py                                                 pre-trains
python examples/bert.py --stage finetune                                what that has left
holdfast launch --nproc-per-node 2 examples/bert.py
holdfast launch --nproc-per-node 2 examples/bert.py --stage finetune

The lines are the standard library's, as words: names, operators, brackets. At first some words of
each are hidden, and the model learns to say which they were (J. Devlin and others,
arXiv:1810.04805): for that nobody has to label anything. Then it learns from a thousand labelled
lines whether two neighbouring words have been swapped, as in `if x not None is:`. Beside the
pre-trained model, the same one with fresh weights learns from the same batches: the difference is
what pre-training is worth, see docs/examples_text.md.
"""

import argparse
import io
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.runtime.corpora import SequenceDataset

PAD, HIDDEN, RARE = range(3)
"""The tokens of what fills a batch up after shorter lines, of a hidden word, and of a rare one."""
WORDS = 2000
"""So many words have a token of their own: the commonest."""
TOKENS = 3 + WORDS
SHORTEST, LONGEST = 5, 24
"""Lines of fewer or more words are left out."""
TESTED = 2000
"""So many lines are kept to test with: neither stage trains on them."""

Lines = list[np.ndarray]


@dataclass(frozen=True)
class Corpus:
    """Lines of Python as tokens, each one once: those to test with are of other modules."""

    train: Lines
    test: Lines


def read_lines() -> list[list[str]]:
    """Return the words of each logical line in the standard library, without its comments."""
    source = io.StringIO(str(hf.datasets.standard_library_text()))
    lines: list[list[str]] = [[]]
    for token in tokenize.generate_tokens(source.readline):
        kind = tokenize.tok_name[token.type]
        if kind == "NEWLINE":
            lines.append([])
        elif "STRING" in kind:
            lines[-1].append('""')  # what strings and numbers say is nothing of grammar
        elif kind == "NUMBER":
            lines[-1].append("0")
        elif kind in ("NAME", "OP"):
            lines[-1].append(token.string)
    return lines


def corpus() -> Corpus:
    """Return all lines; which are which is the same each time."""
    lines = read_lines()
    last = len(lines) * 9 // 10  # the last modules are tested with, and name no words
    count = Counter(word for line in lines[:last] for word in line)
    numbers = {word: 3 + i for i, (word, _) in enumerate(count.most_common(WORDS))}

    def encode(part: list[list[str]]) -> set[tuple[int, ...]]:
        fitting = (line for line in part if SHORTEST <= len(line) <= LONGEST)
        return {tuple(numbers.get(word, RARE) for word in line) for line in fitting}

    train = encode(lines[:last])
    test = encode(lines[last:]) - train
    known, unseen = ([np.array(line) for line in sorted(part)] for part in (train, test))
    chosen = np.random.default_rng(0).permutation(len(unseen))[:TESTED]
    return Corpus(known, [unseen[i] for i in chosen])


def tampered(lines: Lines, rng: np.random.Generator) -> SequenceDataset:
    """Return the lines, two neighbouring words swapped in every other: then the target is 1."""
    found = []
    for i, line in enumerate(lines):
        places = np.flatnonzero(line[1:] != line[:-1])
        swapped = i % 2 and len(places) > 0
        if swapped:
            at = rng.choice(places)
            line = line.copy()
            line[at : at + 2] = line[at : at + 2][::-1].copy()
        found.append((line, np.array([int(swapped)])))
    given, targets = zip(*found, strict=True)
    return SequenceDataset(given, targets, padding=PAD)


class Reader(nn.Module):
    """What both stages share: a line's words, each in the light of all others."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(TOKENS, width)
        self.positions = nn.Embedding(LONGEST, width)
        for embedding in (self.words, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width))

    def forward(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, T, width) for (k, T)."""
        places = hf.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.positions(places)
        read: hf.Tensor = self.encoder(x, src_key_padding_mask=tokens == PAD)
        return read


class MaskedModel(nn.Module):
    """Scores of what the hidden words are."""

    def __init__(self, reader: Reader, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.head = nn.Linear(width, TOKENS)

    def forward(self, tokens: hf.Tensor, hidden: hf.Tensor) -> hf.Tensor:
        """Return (h, words) for tokens (k, T) and a mask (k, T), True at h of them."""
        scores: hf.Tensor = self.head(self.reader(tokens)[hidden])
        return scores


class Judge(nn.Module):
    """The score of a line's having been tampered with, from the mean over its words."""

    def __init__(self, reader: Reader, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, 1)

    def forward(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, 1) for (k, T)."""
        there = (tokens != PAD).float().unsqueeze(-1)
        mean = (self.reader(tokens) * there).sum(1) / there.sum(1)
        score: hf.Tensor = self.head(self.dropout(mean))
        return score


def hide(tokens: hf.Tensor, fraction: float) -> tuple[hf.Tensor, hf.Tensor]:
    """Return the tokens with a fraction of the words hidden, and a mask of which these are.

    Of those, one in ten is replaced by any other word, and one in ten is left as it is: the model
    cannot know which of the words it sees are right.
    """
    chance, how, which = (hf.rand(*tokens.shape, device=tokens.device) for _ in range(3))
    chosen = (chance < fraction) & (tokens != PAD)
    instead = hf.where(how < 0.9, (which * TOKENS).long(), tokens)
    shown = hf.where(how < 0.8, HIDDEN, instead)
    return hf.where(chosen, shown, tokens), chosen


def guessed(job: hf.Job, model: MaskedModel, samples: SequenceDataset, fraction: float) -> float:
    """The fraction of the hidden words of `samples` that the model guesses right."""
    right = total = 0.0
    model.eval()
    with hf.no_grad():
        for tokens, _ in job.shard(samples, batch_size=200):
            shown, hidden = hide(tokens, fraction)
            right += (model(shown, hidden).argmax(-1) == tokens[hidden]).sum().item()
            total += hidden.sum().item()
    model.train()
    return job.sum(right) / job.sum(total)


def pretrain(job: hf.Job, args: argparse.Namespace) -> None:
    """Learn to say which words are hidden, and keep the reader's weights in a file."""
    lines = corpus()
    known = (
        lines.train if args.lines is None else lines.train[:: -(-len(lines.train) // args.lines)]
    )
    train, test = (SequenceDataset(part, part, PAD, PAD) for part in (known, lines.test))
    model = MaskedModel(Reader(args.width, args.layers), args.width).to(job.device)
    optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    epochs, batch_size = args.epochs or 4, args.batch_size or 64
    total = epochs * -(-len(train) // batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 20, total)
    job.prepare(model, optimizer, schedule)

    for tokens, _ in job.batches(train, batch_size, epochs):
        shown, hidden = hide(tokens, args.hidden)
        # Lines differ in how much of them is hidden: a mean over lines, not over hidden words, is
        # the same however the batch is shared among the workers.
        scores = model(shown, hidden)
        loss = F.cross_entropy(scores, tokens[hidden], reduction="sum") / len(tokens)
        job.backward(loss)
        job.step(clip_norm=5.0)
        schedule.step()
        if job.ends_epoch:
            job.log(hidden_guessed=guessed(job, model, test, args.hidden))

    if job.rank == 0:
        args.weights.parent.mkdir(parents=True, exist_ok=True)
        hf.save(model.reader.state_dict(), args.weights)
        print(f"for --stage finetune, the weights are in {args.weights}")


def accuracy(job: hf.Job, model: nn.Module, samples: SequenceDataset) -> float:
    """The fraction of `samples` of which the model tells right whether they are as they were."""
    model.eval()
    with hf.no_grad():
        right = sum(
            ((model(tokens) > 0) == (swapped == 1)).sum().item()
            for tokens, swapped in job.shard(samples, batch_size=200)
        )
    model.train()
    return job.sum(right) / len(samples)


def finetune(job: hf.Job, args: argparse.Namespace) -> None:
    """Learn from a few labelled lines, with the weights of the file and with fresh ones."""
    models = nn.ModuleDict(
        {
            name: Judge(Reader(args.width, args.layers), args.width)
            for name in ("pretrained", "fresh")
        }
    ).to(job.device)
    if not args.weights.exists():
        raise SystemExit(f"{args.weights} is not there: pre-train first, or say --weights")
    models["pretrained"].reader.load_state_dict(hf.load(args.weights))
    optimizer = optim.AdamW(models.parameters(), lr=args.lr)
    epochs, batch_size = args.epochs or 10, args.batch_size or 32
    total = epochs * -(-args.labels // batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 10, total)
    job.prepare(models, optimizer, schedule)
    lines, rng = corpus(), np.random.default_rng(job.seed)
    few = rng.permutation(len(lines.train))[: args.labels]
    train = tampered([lines.train[i] for i in few], rng)
    test = tampered(lines.test, np.random.default_rng(0))

    for tokens, swapped in job.batches(train, batch_size, epochs):
        # Neither model has a part in the other's loss: both learn as they would alone.
        losses = [
            F.binary_cross_entropy_with_logits(model(tokens), swapped.float())
            for model in models.values()
        ]
        job.backward(losses[0] + losses[1])
        job.step()
        schedule.step()
        if job.ends_epoch:
            scores = {name: accuracy(job, model, test) for name, model in models.items()}
            job.log(**scores, margin=scores["pretrained"] - scores["fresh"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--weights", type=Path, default=Path("runs/bert.safetensors"))
    parser.add_argument("--epochs", type=int, help="4 to pre-train, 10 to fine-tune")
    parser.add_argument("--batch-size", type=int, help="global; 64 to pre-train, 32 to fine-tune")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lines", type=int, help="to pre-train on, at most")
    parser.add_argument("--hidden", type=float, default=0.15, help="fraction of the words")
    parser.add_argument("--labels", type=int, default=1000, help="lines to fine-tune with")
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    job = hf.init()
    stage = pretrain if args.stage == "pretrain" else finetune
    stage(job, args)


if __name__ == "__main__":
    main()
