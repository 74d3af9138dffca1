"""A small BERT: pre-trained on names without labels, then fine-tuned to tell their languages.

python examples/bert.py                                                 pre-trains
python examples/bert.py --stage finetune                                what that has left
holdfast launch --nproc-per-node 2 examples/bert.py
holdfast launch --nproc-per-node 2 examples/bert.py --stage finetune

Countries, currencies and languages have names in twenty languages that share an alphabet. At first
some characters of each name are hidden, and the model learns to say which they were (J. Devlin and
others, arXiv:1810.04805). Nobody tells it the languages. Then a few names with labels are to teach
it them. Beside the pre-trained model, the same one with fresh weights learns from the same batches:
the difference is what pre-training is worth, see docs/examples_text.md. The names are pycountry's:
pip install 'holdfast[examples]'
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import datasets, nn, optim
from holdfast.runtime.corpora import Alphabet, SequenceDataset

LANGUAGES = (
    *("ca", "cs", "da", "de", "es", "et", "fi", "fr", "ga", "hr"),
    *("hu", "it", "lt", "lv", "nl", "pl", "pt", "ro", "sv", "tr"),
)
MARKS = "\0\1"
PAD, HIDDEN = range(len(MARKS))
"""The tokens of what fills a batch up after shorter names, and of a hidden character."""
LONGEST = 32
"""Longer names are left out."""
TESTED = 50
"""Names of each language to test with: neither stage trains on them."""


Names = list[list[str]]
"""Those in each of LANGUAGES."""


def names(most: int) -> tuple[Names, Names, Alphabet]:
    """Return names to train on, names to test with, and the characters that they consist of.

    There are at most so many of each language, and none is in two of them. Which are which is the
    same each time.
    """
    catalogues = datasets.country_names, datasets.currency_names, datasets.language_names
    found = [
        sorted(
            {
                other
                for catalogue in catalogues
                for english, other in catalogue(language)
                if other != english and len(other) <= LONGEST
            }
        )
        for language in LANGUAGES
    ]
    count = Counter(name for own in found for name in own)
    rng = np.random.default_rng(0)
    unique = ([name for name in own if count[name] == 1] for own in found)
    alphabet = Alphabet(MARKS + Alphabet.of(count).characters)
    found = [rng.permutation(own)[:most].tolist() for own in unique]
    return [own[TESTED:] for own in found], [own[:TESTED] for own in found], alphabet


def dataset(found: Names, alphabet: Alphabet) -> SequenceDataset:
    """Return names as tokens, each with the number of its language."""
    tokens = [alphabet.encode(name) for own in found for name in own]
    languages = [np.array([i]) for i, own in enumerate(found) for _ in own]
    return SequenceDataset(tokens, languages, padding=PAD)


class Reader(nn.Module):
    """What both stages share: a name's characters, each in the light of all others."""

    def __init__(self, characters: int, width: int, layers: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.positions = nn.Embedding(LONGEST, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width))
        for table in (self.characters, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, T, width) for (k, T)."""
        embedded = self.characters(tokens) + self.positions.weight[: tokens.shape[1]]
        read: hf.Tensor = self.encoder(embedded, src_key_padding_mask=tokens == PAD)
        return read


class MaskedModel(nn.Module):
    """Scores of what each character is."""

    def __init__(self, reader: Reader, characters: int, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.head = nn.Linear(width, characters)

    def forward(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, T, characters)."""
        scores: hf.Tensor = self.head(self.reader(tokens))
        return scores


class Classifier(nn.Module):
    """Scores of the languages that a name may be in, from the mean over its characters."""

    def __init__(self, reader: Reader, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, len(LANGUAGES))

    def forward(self, tokens: hf.Tensor) -> hf.Tensor:
        """Return (k, languages)."""
        there = (tokens != PAD).float().unsqueeze(-1)
        mean = (self.reader(tokens) * there).sum(1) / there.sum(1)
        scores: hf.Tensor = self.head(self.dropout(mean))
        return scores


def hide(tokens: hf.Tensor, fraction: float, characters: int) -> tuple[hf.Tensor, hf.Tensor]:
    """Return the tokens with a fraction of the characters hidden, and a mask of which these are.

    Of those, one in ten is replaced by any other character, and one in ten is left as it is: the
    model cannot know which of the characters it sees are right.
    """
    chance, how, which = (hf.rand(*tokens.shape, device=tokens.device) for _ in range(3))
    chosen = (chance < fraction) & (tokens != PAD)
    instead = hf.where(how < 0.9, (which * characters).long(), tokens)
    shown = hf.where(how < 0.8, HIDDEN, instead)
    return hf.where(chosen, shown, tokens), chosen


def pretrain(job: hf.Job, args: argparse.Namespace) -> None:
    """Learn to say which characters are hidden, and keep the reader's weights in a file."""
    known, unseen, alphabet = names(args.names)
    train, test, size = dataset(known, alphabet), dataset(unseen, alphabet), len(alphabet)
    model = MaskedModel(Reader(size, args.width, args.layers), size, args.width).to(job.device)
    epochs, batch_size = args.epochs or 15, args.batch_size or 64
    optimizer = optim.AdamW(model.parameters(), lr=args.lr or 2e-3)
    total = epochs * -(-len(train) // batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 20, total)
    job.prepare(model, optimizer, schedule, checkpoint_every=0)

    for tokens, _ in job.batches(train, batch_size, epochs):
        shown, hidden = hide(tokens, args.hidden, size)
        loss = F.cross_entropy(model(shown)[hidden], tokens[hidden], reduction="sum") / len(tokens)
        job.backward(loss)
        job.step()
        schedule.step()
        if job.ends_epoch:
            right = total = 0.0
            model.eval()
            with hf.no_grad():
                for tokens, _ in job.shard(test):
                    shown, hidden = hide(tokens, args.hidden, size)
                    right += (model(shown)[hidden].argmax(-1) == tokens[hidden]).sum().item()
                    total += hidden.sum().item()
            model.train()
            job.log(hidden_guessed=job.sum(right) / job.sum(total))

    if job.rank == 0:
        args.weights.parent.mkdir(parents=True, exist_ok=True)
        hf.save(model.reader.state_dict(), args.weights)
        print(f"the reader's weights are in {args.weights}")


def accuracy(job: hf.Job, model: nn.Module, samples: SequenceDataset) -> float:
    """The fraction of the names in `samples` whose language is told right."""
    model.eval()
    with hf.no_grad():
        right = sum(
            (model(tokens).argmax(1) == language.flatten()).sum().item()
            for tokens, language in job.shard(samples)
        )
    model.train()
    return job.sum(right) / len(samples)


def finetune(job: hf.Job, args: argparse.Namespace) -> None:
    """Learn the languages of a few names, with the weights of the file and with fresh ones."""
    known, unseen, alphabet = names(args.names)
    models = nn.ModuleDict(
        {
            name: Classifier(Reader(len(alphabet), args.width, args.layers), args.width)
            for name in ("pretrained", "fresh")
        }
    ).to(job.device)
    models["pretrained"].reader.load_state_dict(hf.load(args.weights))
    epochs, batch_size = args.epochs or 40, args.batch_size or 32
    optimizer = optim.AdamW(models.parameters(), lr=args.lr or 1e-3)
    total = epochs * -(-len(LANGUAGES) * args.labels // batch_size)
    schedule = optim.lr_scheduler.WarmupLR(optimizer, total // 10, total)
    job.prepare(models, optimizer, schedule, checkpoint_every=0)
    rng = np.random.default_rng(job.seed)
    few = [rng.permutation(own)[: args.labels].tolist() for own in known]
    train, test = dataset(few, alphabet), dataset(unseen, alphabet)

    for tokens, language in job.batches(train, batch_size, epochs):
        # Neither model has a part in the other's loss: both learn as they would alone.
        losses = [F.cross_entropy(model(tokens), language.flatten()) for model in models.values()]
        job.backward(losses[0] + losses[1])
        job.step()
        schedule.step()

    scores = {name: accuracy(job, model, test) for name, model in models.items()}
    job.log(**scores, margin=scores["pretrained"] - scores["fresh"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--weights", type=Path, default=Path("runs/bert.safetensors"))
    parser.add_argument("--epochs", type=int, help="15 to pre-train, 40 to fine-tune")
    parser.add_argument("--batch-size", type=int, help="global; 64 to pre-train, 32 to fine-tune")
    parser.add_argument("--lr", type=float, help="2e-3 to pre-train, 1e-3 to fine-tune")
    parser.add_argument("--names", type=int, default=1000, help="of each language, at most")
    parser.add_argument("--hidden", type=float, default=0.15, help="fraction of the characters")
    parser.add_argument("--labels", type=int, default=10, help="names to learn each language from")
    parser.add_argument("--width", type=int, default=96, help="of the model")
    parser.add_argument("--layers", type=int, default=3)
    args = parser.parse_args()
    job = hf.init()
    stage = pretrain if args.stage == "pretrain" else finetune
    stage(job, args)


if __name__ == "__main__":
    main()
