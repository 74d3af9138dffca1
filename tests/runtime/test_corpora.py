"""Text data: alphabets, windows of a text, the standard library's source, names of countries."""

import sys
import sysconfig

import numpy as np
import pytest

from holdfast import datasets
from holdfast.errors import DataError, MissingDependency, UsageError
from holdfast.runtime.corpora import (
    OTHER,
    SOURCE_ALPHABET,
    Alphabet,
    SequenceDataset,
    Text,
    TokenDataset,
    country_names,
    currency_names,
    language_names,
    standard_library_text,
)

LETTERS = Alphabet("edcba")
ALPHABET_TEXT = Text(np.arange(26, dtype=np.uint8), Alphabet("abcdefghijklmnopqrstuvwxyz"))


def test_an_alphabet_encodes_and_decodes():
    tokens = LETTERS.encode("bade")
    assert tokens.tolist() == [3, 4, 1, 0]
    assert tokens.dtype == np.uint8
    assert LETTERS.decode(tokens) == "bade"
    assert LETTERS.decode([]) == LETTERS.decode(LETTERS.encode("")) == ""
    assert Alphabet.of(["Österreich", "Ö 中"]).characters == " cehirstÖ中"
    assert Alphabet("".join(map(chr, range(1000)))).encode("\u0300").tolist() == [0x300]


@pytest.mark.parametrize("text", ["bad!", "Ä", "fade"])
def test_an_unknown_character_is_named(text):
    unknown = next(character for character in text if character not in LETTERS.characters)
    with pytest.raises(DataError, match=f"{unknown!r} is not in the alphabet 'edcba'"):
        LETTERS.encode(text)


def test_an_alphabet_has_each_character_once():
    with pytest.raises(DataError, match="each character once, found 'abca'"):
        Alphabet("abca")


def test_windows_of_a_text_and_what_follows():
    samples = ALPHABET_TEXT.windows(5)
    assert len(samples) == 5  # of 25 characters; the 26th is only ever a target
    inputs, targets = samples[np.array([4, 0])]
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.tolist() == [[20, 21, 22, 23, 24], [0, 1, 2, 3, 4]]
    assert targets.tolist() == [[21, 22, 23, 24, 25], [1, 2, 3, 4, 5]]
    assert len(ALPHABET_TEXT.windows(5, stride=1)) == 21
    assert ALPHABET_TEXT.windows(5, stride=7).inputs[:, 0].tolist() == [0, 7, 14]
    assert len(ALPHABET_TEXT.windows(25)) == 1


@pytest.mark.parametrize(("length", "stride"), [(26, None), (0, None), (5, 0)])
def test_wrong_windows_are_refused(length, stride):
    with pytest.raises(UsageError, match="26 characters"):
        ALPHABET_TEXT.windows(length, stride)


def test_a_text_is_split_in_two():
    train, test = ALPHABET_TEXT.split(0.25)
    assert (str(train), str(test)) == ("abcdefghijklmnopqrst", "uvwxyz")
    assert len(train) + len(test) == len(ALPHABET_TEXT)
    assert [len(part) for part in ALPHABET_TEXT.split(0)] == [26, 0]
    with pytest.raises(UsageError, match="from 0 to 1"):
        ALPHABET_TEXT.split(2)


def test_token_batches_are_copies_and_int64():
    inputs, targets = np.zeros((3, 2), np.uint8), np.arange(3, dtype=np.int16)
    samples = TokenDataset(inputs, targets)
    of_batch, _ = samples[np.arange(3)]
    of_batch += 1
    assert inputs.sum() == 0
    assert samples[np.array([2])][1].dtype == np.int64


def test_inputs_and_targets_must_fit():
    with pytest.raises(DataError, match=r"one target for each input.*\(3, 2\).*\(2,\)"):
        TokenDataset(np.zeros((3, 2), int), np.zeros(2, int))
    with pytest.raises(DataError, match="expected integers, found float64"):
        TokenDataset(np.zeros((3, 2)), np.zeros(3, int))


def test_sequences_are_padded_to_the_longest_of_their_batch():
    inputs = [np.array(row, np.uint8) for row in ([1, 2], [3], [4, 5, 6], [])]
    targets = [np.array(row) for row in ([7], [8, 9], [10], [])]
    samples = SequenceDataset(inputs, targets, target_padding=-100)
    assert len(samples) == 4
    padded, wanted = samples[np.array([1, 0])]
    assert padded.dtype == wanted.dtype == np.int64
    assert padded.tolist() == [[3, 0], [1, 2]]
    assert wanted.tolist() == [[8, 9], [7, -100]]
    padded, wanted = samples[np.array([2, 3])]
    assert padded.tolist() == [[4, 5, 6], [0, 0, 0]]
    assert wanted.tolist() == [[10], [-100]]
    assert [part.shape for part in samples[np.array([], np.int64)]] == [(0, 0), (0, 0)]
    with pytest.raises(DataError, match="one target for each input, found 4 inputs and 3 targets"):
        SequenceDataset(inputs, targets[:3])


def test_the_standard_library_is_a_text():
    text = standard_library_text()
    assert text.alphabet.characters == SOURCE_ALPHABET
    assert len(SOURCE_ALPHABET) == 97
    assert 2e6 < len(text) < 10e6
    assert text.tokens.dtype == np.uint8
    source = str(text)
    assert "class Text:" not in source  # this file is no part of it
    assert "def urlopen" not in source  # nor is a package
    assert source.index("class ABC(") < source.index("class ZipFile:")
    assert source.count(OTHER) < len(text) / 10_000
    assert np.array_equal(standard_library_text().tokens, text.tokens)


def test_a_python_without_sources(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("no module of the library")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=f"source in {tmp_path}, found none"):
        standard_library_text()


def test_characters_that_source_code_seldom_has(monkeypatch, tmp_path):
    (tmp_path / "abc.py").write_text("x = 'Ä]^-\\'\t\n", "utf-8")
    (tmp_path / "ast.py").write_bytes(b"# \xff\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert str(standard_library_text()) == f"x = '{OTHER}]^-\\'{OTHER}\n# {OTHER}\n"


def test_names_of_countries_and_languages():
    pytest.importorskip("pycountry", reason="pip install 'holdfast[examples]'")
    german = dict(country_names("de"))
    assert german["Germany"] == "Deutschland"
    assert german["Federal Republic of Germany"] == "Bundesrepublik Deutschland"
    assert german["Kenya"] == "Kenia"
    assert list(german) == sorted(german)
    assert len(german) == len(country_names("de")) > 400
    assert dict(country_names("fr"))["Spain"] == "Espagne"
    assert country_names("de_AT") == country_names("de")
    currencies = dict(currency_names("de"))
    assert currencies["Swiss Franc"] == "Schweizer Franken"
    assert len(currencies) > 150
    languages = dict(language_names("de"))
    assert languages["Dutch"] == "Niederländisch"
    assert len(languages) > 1000
    assert not any(english == other for english, other in languages.items())


def test_a_language_that_nobody_has_translated_to():
    pytest.importorskip("pycountry", reason="pip install 'holdfast[examples]'")
    with pytest.raises(UsageError, match=r"no countries in 'xx'; it has .*de, .*fr, "):
        country_names("xx")


def test_names_need_pycountry(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycountry", None)
    for names in (country_names, currency_names, language_names):
        with pytest.raises(MissingDependency, match=r"pip install 'holdfast\[examples\]'"):
            names("de")


def test_they_are_found_among_the_data_sets():
    for name in ("Alphabet", "SequenceDataset", "Text", "country_names", "standard_library_text"):
        assert name in datasets.__all__
        assert hasattr(datasets, name)
