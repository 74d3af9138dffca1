"""Text as data: the standard library's own source, and names of things in two languages.

Characters become small integers by an `Alphabet`, and samples of them a `TokenDataset`, or a
`SequenceDataset` where they differ in length.
"""

import gettext
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.errors import DataError, MissingDependency, UsageError

Integers = npt.NDArray[Any]
Tokens = npt.NDArray[np.int64]
Pairs = tuple[tuple[str, str], ...]

OTHER = "\ufffd"
"""What stands for every character that an alphabet of source code has no place for."""

SOURCE_ALPHABET = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1))) + OTHER
"""What source code consists of: the end of a line, printable ASCII, and one for all others."""


@dataclass(frozen=True)
class Alphabet:
    """Characters and their numbers: the one at place i of `characters` is token i.

    Raises DataError where a character is there twice.
    """

    characters: str

    def __post_init__(self) -> None:
        if len(set(self.characters)) != len(self.characters):
            raise DataError(f"an alphabet has each character once, found {self.characters!r}")

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Alphabet":
        """Return the alphabet of all characters in `texts`, sorted."""
        return cls("".join(sorted(set().union(*texts))))

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def _sorted(self) -> tuple[Integers, Integers]:
        """The characters' code points in ascending order, and the token of each."""
        codes = _code_points(self.characters)
        order = np.argsort(codes).astype(np.min_scalar_type(max(0, len(codes) - 1)))
        return codes[order], order

    def encode(self, text: str) -> Integers:
        """Return the tokens of `text`, in the smallest unsigned integers that hold them.

        Raises DataError for a character that the alphabet does not have.
        """
        codes, tokens = self._sorted
        asked = _code_points(text)
        at = np.searchsorted(codes, asked)
        known = at < len(codes)
        known[known] = codes[at[known]] == asked[known]
        if not known.all():
            raise DataError(
                f"{text[int(known.argmin())]!r} is not in the alphabet {self.characters!r}"
            )
        return tokens[at]

    def decode(self, tokens: npt.ArrayLike) -> str:
        """Return the text of `tokens`, of shape (n,)."""
        return "".join([self.characters[token] for token in np.asarray(tokens).tolist()])


def _code_points(text: str) -> Integers:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


@dataclass(frozen=True)
class TokenDataset:
    """Samples of integers in memory: `inputs` (N, …) and `targets` (N,) or (N, …).

    The arrays may be views and of any integer type; a batch is new and of int64. Raises DataError
    if the numbers of inputs and targets differ, or they are no integers.
    """

    inputs: Integers
    targets: Integers

    def __post_init__(self) -> None:
        shapes = f"inputs of shape {self.inputs.shape} and targets of shape {self.targets.shape}"
        if not (self.inputs.ndim and self.targets.ndim) or len(self.inputs) != len(self.targets):
            raise DataError(f"expected one target for each input, found {shapes}")
        for array in (self.inputs, self.targets):
            if not np.issubdtype(array.dtype, np.integer):
                raise DataError(f"expected integers, found {array.dtype}: {shapes}")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> tuple[Tokens, Tokens]:
        """Return the batch at `indices`, of shape (k,): inputs (k, …) and targets, both int64."""
        return self.inputs[indices].astype(np.int64), self.targets[indices].astype(np.int64)


@dataclass(frozen=True)
class SequenceDataset:
    """Samples of different lengths: `inputs[i]` and `targets[i]` are integers (length,).

    A batch is as wide as its longest inputs, and its longest targets: what is missing at the end of
    shorter ones is filled with `padding` there, and with `target_padding` here. Raises DataError if
    the numbers of inputs and targets differ.
    """

    inputs: Sequence[Integers]
    targets: Sequence[Integers]
    padding: int = 0
    target_padding: int = 0

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"expected one target for each input, found {len(self.inputs)} inputs and "
                f"{len(self.targets)} targets"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> tuple[Tokens, Tokens]:
        """Return the batch at `indices`, of shape (k,): inputs (k, S) and targets (k, T), int64."""
        chosen = indices.tolist()
        return (
            _padded([self.inputs[i] for i in chosen], self.padding),
            _padded([self.targets[i] for i in chosen], self.target_padding),
        )


def _padded(rows: Sequence[Integers], padding: int) -> Tokens:
    batch = np.full((len(rows), max(map(len, rows), default=0)), padding, np.int64)
    for into, row in zip(batch, rows, strict=True):
        into[: len(row)] = row
    return batch


@dataclass(frozen=True)
class Text:
    """A text and its alphabet: `tokens` has shape (N,)."""

    tokens: Integers
    alphabet: Alphabet

    def __len__(self) -> int:
        return len(self.tokens)

    def __str__(self) -> str:
        return self.alphabet.decode(self.tokens)

    def split(self, fraction: float) -> tuple["Text", "Text"]:
        """Return the beginning and the end of the text: `fraction` of it, 0 to 1, is the end."""
        if not 0 <= fraction <= 1:
            raise UsageError(f"split: a fraction from 0 to 1 was expected, found {fraction}")
        at = len(self) - round(len(self) * fraction)
        return Text(self.tokens[:at], self.alphabet), Text(self.tokens[at:], self.alphabet)

    def windows(self, length: int, stride: int | None = None) -> TokenDataset:
        """Return samples of `length` characters, each with those that follow by one as target.

        Samples begin every `stride` characters, by default where the one before ends. They are
        views of the text: overlapping ones take no memory. Raises UsageError for a text that is
        too short for one.
        """
        step = length if stride is None else stride
        if length < 1 or step < 1 or len(self) <= length:
            raise UsageError(
                f"windows: a length and a stride of at least 1 in a text longer than the length "
                f"were expected, found {length}, {step} and {len(self)} characters"
            )
        rows = np.lib.stride_tricks.sliding_window_view(self.tokens, length + 1)[::step]
        return TokenDataset(rows[:, :-1], rows[:, 1:])


def standard_library_text() -> Text:
    """Return the source of the standard library's modules: some 4.7 million characters.

    It is that of the Python that runs: the files that lie side by side in its library's folder,
    without packages, tests and what was generated for one machine, in the order of their names. The
    alphabet is always `SOURCE_ALPHABET`, 97 characters. Raises DataError where Python has no source
    files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names]
    if not files:
        raise DataError(
            f"expected the standard library's source in {folder}, found none: some systems have it "
            "in a package of its own, and a Python from python.org has it"
        )
    sources = (path.read_text("utf-8", errors="replace") for path in sorted(files))
    alphabet = Alphabet(SOURCE_ALPHABET)
    text = re.sub(f"[^{re.escape(SOURCE_ALPHABET)}]", OTHER, "".join(sources))
    return Text(alphabet.encode(text), alphabet)


def country_names(language: str) -> Pairs:
    """Return countries' names in English, each with the one in `language`: "de", "pt_BR", …

    They are short and official names, from pycountry's catalogue of ISO 3166-1, in the order of the
    English; a name that nobody has translated stays English. Raises MissingDependency where
    pycountry isn't installed, UsageError for a language that it does not have.
    """
    return _names("countries", "iso3166-1", language)


def language_names(language: str) -> Pairs:
    """Return languages' names in English, each with the one in `language`: "de", "pt_BR", …

    They come from pycountry's catalogue of ISO 639-3 as `country_names` do, but only those that
    differ: most of the world's languages have no other name, and copies teach nothing.
    """
    return tuple(pair for pair in _names("languages", "iso639-3", language) if pair[0] != pair[1])


def currency_names(language: str) -> Pairs:
    """Return currencies' names in English, each with the one in `language`: "de", "pt_BR", …

    They come from pycountry's catalogue of ISO 4217 as `country_names` do.
    """
    return _names("currencies", "iso4217", language)


def _names(database: str, domain: str, language: str) -> Pairs:
    try:
        import pycountry
    except ImportError as error:
        raise MissingDependency(
            "names of countries and the like come with pycountry, which isn't installed: "
            "pip install 'holdfast[examples]'"
        ) from error
    folder = pycountry.LOCALES_DIR
    try:
        translation = gettext.translation(domain, folder, [language])
    except FileNotFoundError:
        known = sorted(path.parts[-3] for path in Path(folder).glob(f"*/LC_MESSAGES/{domain}.mo"))
        raise UsageError(
            f"pycountry has no {database} in {language!r}; it has {', '.join(known)}"
        ) from None
    names = {
        text
        for entry in getattr(pycountry, database)
        for field, text in entry
        if field in ("name", "official_name", "common_name")
    }
    return tuple((name, translation.gettext(name)) for name in sorted(names))
