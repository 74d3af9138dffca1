"""A Transformer translates the names of countries and languages from English.

python examples/transformer.py                                          to French
python examples/transformer.py --language de
holdfast launch --nproc-per-node 2 examples/transformer.py

The task is that of seq2seq.py: characters in, characters out, every tenth pair held out. Here
nothing is carried from character to character; each looks at all others that it may see
(A. Vaswani and others, arXiv:1706.03762). The names are pycountry's:
pip install 'holdfast[examples]'
"""

import argparse

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import datasets, nn, optim
from holdfast.runtime.corpora import Alphabet, Pairs, SequenceDataset

MARKS = "\0\2\3"
PAD, BEGIN, END = range(len(MARKS))
"""The tokens of what fills a batch up after shorter names, of a name's begin, and of its end."""
LONGEST = 40
"""Pairs with a longer name are left out; also, where the model stops writing."""


def pairs(language: str) -> tuple[Pairs, Pairs]:
    """Return the names to train on and those held out, each with its translation."""
    named = {*datasets.country_names(language), *datasets.language_names(language)}
    short = sorted(pair for pair in named if max(map(len, pair)) <= LONGEST)
    return tuple(pair for i, pair in enumerate(short) if i % 10), tuple(short[::10])


def encoded(names: Pairs, alphabet: Alphabet) -> SequenceDataset:
    """Return pairs as tokens; the targets have a BEGIN before and an END after them."""
    return SequenceDataset(
        [alphabet.encode(english) for english, _ in names],
        [np.array([BEGIN, *alphabet.encode(other), END]) for _, other in names],
        padding=PAD,
        target_padding=PAD,
    )


def decoded(tokens: hf.Tensor, alphabet: Alphabet) -> list[str]:
    """Return rows of tokens as texts, each up to its END."""
    end = MARKS[END]
    return [alphabet.decode(row).strip(MARKS[BEGIN]).split(end)[0] for row in tokens.cpu().numpy()]


class Translator(nn.Module):
    """Scores of each next character of a translation."""

    def __init__(self, characters: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.SinusoidalPositions(width)
        self.dropout = nn.Dropout(0.1)
        self.transformer = nn.Transformer(
            width, 4, layers, layers, 4 * width, 0.1, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, characters)

    def embed(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, T, width), of which each row says what stands there, and where."""
        embedded: hf.Tensor = self.dropout(self.positions(self.embedding(tokens)))
        return embedded

    def encode(self, source: hf.Tensor) -> hf.Tensor:
        """Return what was read at each character of (k, S)."""
        memory: hf.Tensor = self.transformer.encoder(
            self.embed(source), src_key_padding_mask=source == PAD
        )
        return memory

    def decode(self, source: hf.Tensor, memory: hf.Tensor, target: hf.Tensor) -> hf.Tensor:
        """Return (k, T, characters): the scores of what follows each character of the target.

        Padding stands at the end, where nothing before it looks: it needs no mask of its own.
        """
        later = self.transformer.generate_square_subsequent_mask(
            target.shape[1], device=target.device
        )
        written = self.transformer.decoder(
            self.embed(target),
            memory,
            tgt_mask=later,
            tgt_is_causal=True,
            memory_key_padding_mask=source == PAD,
        )
        scores: hf.Tensor = self.head(written)
        return scores

    def forward(self, source: hf.Tensor, target: hf.Tensor) -> hf.Tensor:
        """Return the scores of what follows each character of the target."""
        return self.decode(source, self.encode(source), target)

    def translate(self, source: hf.Tensor) -> hf.Tensor:
        """Return translations (k, LONGEST), always going on with the likeliest character."""
        memory = self.encode(source)
        written = source.new_full((len(source), 1), BEGIN)
        for _ in range(LONGEST):
            scores = self.decode(source, memory, written)[:, -1:]
            written = hf.cat((written, scores.argmax(-1)), dim=1)
        return written[:, 1:]


def test(
    job: hf.Job, model: Translator, names: SequenceDataset, alphabet: Alphabet
) -> dict[str, float]:
    """Return how many names are translated exactly, and how many characters are foreseen.

    A character is foreseen where it is the likeliest after the right ones before it.
    """
    exact = right = total = 0.0
    model.eval()
    with hf.no_grad():
        for source, target in job.shard(names):
            own, wanted = decoded(model.translate(source), alphabet), decoded(target, alphabet)
            exact += sum(a == b for a, b in zip(own, wanted, strict=True))
            following = target[:, 1:]
            counted = following != PAD
            foreseen = model(source, target[:, :-1]).argmax(-1) == following
            right += (foreseen & counted).sum().item()
            total += counted.sum().item()
    model.train()
    return {
        "exact_matches": job.sum(exact) / len(names),
        "character_accuracy": job.sum(right) / job.sum(total),
    }


def show(job: hf.Job, model: Translator, names: Pairs, alphabet: Alphabet) -> None:
    """Print some names, each with the model's translation, and the right one where they differ."""
    source, _ = encoded(names, alphabet)[np.arange(len(names))]
    model.eval()
    with hf.no_grad():
        tokens = model.translate(hf.tensor(source, device=job.device))
    for (english, right), own in zip(names, decoded(tokens, alphabet), strict=True):
        print(f"  {english} → {own}" + ("" if own == right else f"   (not: {right})"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", default="fr", help="de, fr, it, …")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64, help="of the global batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--layers", type=int, default=2, help="to read, and as many to write")
    args = parser.parse_args()

    job = hf.init()
    known, held_out = pairs(args.language)
    texts = [text for pair in known + held_out for text in pair]
    alphabet = Alphabet(MARKS + Alphabet.of(texts).characters)
    train, unseen = encoded(known, alphabet), encoded(held_out, alphabet)
    model = Translator(len(alphabet), args.width, args.layers).to(job.device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    total = args.epochs * -(-len(train) // args.batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 20, total)
    job.prepare(model, optimizer, schedule)

    unchanged = sum(english == other for english, other in held_out) / len(held_out)
    for source, target in job.batches(train, args.batch_size, args.epochs):
        scores = model(source, target[:, :-1])
        following = target[:, 1:]
        # The sum over characters, the mean over names: the same however they are spread.
        loss = F.cross_entropy(
            scores.flatten(0, 1), following.flatten(), ignore_index=PAD, reduction="sum"
        ) / len(source)
        job.backward(loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            job.log(**test(job, model, unseen, alphabet), unchanged=unchanged)

    if job.rank == 0:
        show(job, model, held_out[:: len(held_out) // 16], alphabet)


if __name__ == "__main__":
    main()
