"""A bidirectional LSTM tags each character of Python source with the kind of token it belongs to.

python examples/lstm_tagger.py
holdfast launch --nproc-per-node 2 examples/lstm_tagger.py

The source is the standard library's, statement by statement; what is right is what Python's own
`tokenize` says. A quote opens or closes a string, and `#` is a comment or is not, depending on what
stands before and after: so the LSTM reads both ways. Statements differ in length, and a batch of
them is packed: nothing is computed for padding.
"""

import argparse
import io
import itertools
import keyword
import tokenize
from collections.abc import Iterable

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.nn.utils.rnn import PackedSequence, pack_padded_sequence
from holdfast.runtime.corpora import SequenceDataset, Text

KINDS = ("space", "name", "keyword", "number", "string", "comment", "operator")
LETTERS = "·nk0s#+"
"""What stands for each kind where tags are printed."""
LONGEST = 200
"""Statements of more characters are left out."""
UNKNOWN = -1


def kind(token: tokenize.TokenInfo) -> int:
    """Return which of KINDS a token is."""
    name = tokenize.tok_name[token.type]
    if name == "NAME":
        return KINDS.index("keyword" if keyword.iskeyword(token.string) else "name")
    if "STRING" in name:  # since Python 3.12 an f-string has a beginning, parts and an end
        return KINDS.index("string")
    kinds = {"NUMBER": "number", "COMMENT": "comment", "OP": "operator"}
    return KINDS.index(kinds.get(name, "space"))


Statement = tuple[np.ndarray, np.ndarray]


def statements(text: Text) -> list[Statement]:
    """Return the statements of a text, each with the comments before it: characters and tags."""
    source = str(text)
    line_starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    tags = np.zeros(len(source), np.uint8)
    ends = [0]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, end = (
            int(line_starts[row - 1]) + column for row, column in (token.start, token.end)
        )
        tags[start:end] = kind(token)
        if token.type == tokenize.NEWLINE:
            ends.append(end)
    parts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    return [(text.tokens[at], tags[at]) for at in parts if at.stop - at.start <= LONGEST]


def dataset(samples: Iterable[Statement]) -> SequenceDataset:
    """Return statements as a data set, whose batches end in characters of an unknown kind."""
    characters, tags = zip(*samples, strict=True)
    return SequenceDataset(characters, tags, target_padding=UNKNOWN)


class Tagger(nn.Module):
    """Scores of the kinds for each character, after reading the statement from both ends."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width // 2)
        self.lstm = nn.LSTM(width // 2, width, bidirectional=True)
        self.head = nn.Linear(2 * width, len(KINDS))

    def forward(self, characters: PackedSequence) -> hf.Tensor:
        """Return (elements, kinds) for the packed characters."""
        packed = characters._replace(data=self.embedding(characters.data))
        read, _ = self.lstm(packed)
        scores: hf.Tensor = self.head(read.data)
        return scores


def packed(characters: hf.Tensor, tags: hf.Tensor) -> tuple[PackedSequence, hf.Tensor]:
    """Return a padded batch (k, T) without its padding, and the tags in the same order."""
    lengths = (tags != UNKNOWN).sum(1)
    both = (
        pack_padded_sequence(each, lengths, batch_first=True, enforce_sorted=False)
        for each in (characters, tags)
    )
    sequences, of_elements = both
    return sequences, of_elements.data


def accuracy(job: hf.Job, model: nn.Module, samples: SequenceDataset) -> float:
    """The fraction of the characters of `samples` that are tagged right."""
    right = total = 0.0
    with hf.no_grad():
        for characters, tags in job.shard(samples, batch_size=256):
            sequences, wanted = packed(characters, tags)
            right += (model(sequences).argmax(1) == wanted).sum().item()
            total += wanted.numel()
    return job.sum(right) / job.sum(total)


def show(job: hf.Job, model: nn.Module, line: str, text: Text) -> None:
    """Print a line of source with the tags that the model gives its characters."""
    characters = hf.tensor(text.alphabet.encode(line)[None], device=job.device)
    with hf.no_grad():
        scores = model(pack_padded_sequence(characters, [len(line)], batch_first=True))
    print(f"  {line}\n  {''.join(LETTERS[tag] for tag in scores.argmax(1).tolist())}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--statements", type=int, default=30_000, help="to train on")
    parser.add_argument("--batch-size", type=int, default=32, help="of the global batch")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=64, help="of the LSTM, each way")
    args = parser.parse_args()

    job = hf.init()
    text = hf.datasets.standard_library_text()
    found = statements(text)
    first = len(found) * 19 // 20  # of those to test with: the modules at the alphabet's end
    chosen = np.random.default_rng(0).permutation(first)[: args.statements]
    train, test = dataset(found[i] for i in chosen), dataset(found[first:])
    model = Tagger(len(text.alphabet), args.width).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    job.prepare(model, optimizer, schedule)

    commonest = np.bincount(np.concatenate(train.targets)).argmax()
    baseline = float((np.concatenate(test.targets) == commonest).mean())
    for characters, tags in job.batches(train, args.batch_size, args.epochs):
        sequences, wanted = packed(characters, tags)
        # The sum over characters, the mean over statements: the same however they are spread.
        loss = F.cross_entropy(model(sequences), wanted, reduction="sum") / len(tags)
        job.backward(loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            job.log(test_accuracy=accuracy(job, model, test), commonest_kind=baseline)

    if job.rank == 0:
        print(f"tags of its own: {', '.join(map(' '.join, zip(LETTERS, KINDS, strict=True)))}")
        for line in ("if x == '#': return  # is 'it'?", 'raise Error(f"{n!r} is not in 0x7f")'):
            show(job, model, line, text)


if __name__ == "__main__":
    main()
