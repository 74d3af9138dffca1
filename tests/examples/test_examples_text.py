"""The examples on text, shortened: they run on real data, and learn."""

import importlib.util

import pytest

pytestmark = pytest.mark.local
needs_names = pytest.mark.skipif(
    importlib.util.find_spec("pycountry") is None, reason="pip install 'holdfast[examples]'"
)


def test_a_tagger_of_source_code(run):
    result = run(1, "lstm_tagger.py", "--epochs", 1, "--statements", 1600, "--width", 32)
    assert result["samples"] == 1600
    assert result["test_accuracy"] > result["commonest_kind"] + 0.2


def test_characters_by_an_lstm(run):
    small = "--steps", 60, "--width", 64, "--length", 64, "--lr", 1e-2
    result = run(1, "lstm_characters.py", *small)
    assert result["steps"] == 60
    assert result["bits_per_character"] < 4.2  # from 6.6


def test_a_gpt_on_two_workers(run):
    small = "--steps", 60, "--width", 32, "--layers", 2, "--length", 64, "--lr", 1e-2
    result = run(2, "gpt.py", *small)
    assert result["world_size"] == 2
    assert result["bits_per_character"] < 4.2


def test_a_gpt_in_little_memory(run):
    small = "--steps", 12, "--width", 32, "--layers", 2, "--length", 32, "--lr", 1e-2
    plain = run(1, "gpt.py", *small)
    less = run(
        1, "gpt.py", *small, "--recompute", "--accumulate", 4, "--precision", "float16",
        run_dir="less",
    )  # fmt: skip
    assert plain["loss"] < 3.6  # from 4.6
    assert less["loss"] == pytest.approx(plain["loss"], rel=1e-3)


@needs_names
def test_a_translator_with_attention(run):
    result = run(1, "seq2seq.py", "--epochs", 3, "--width", 64, "--lr", 1e-2)
    assert result["character_accuracy"] > 0.4  # from 0.01


@needs_names
def test_a_transformer_that_translates(run):
    result = run(1, "transformer.py", "--epochs", 2, "--width", 32, "--layers", 1, "--lr", 5e-3)
    assert result["character_accuracy"] > 0.2


def test_a_bert_that_was_pre_trained_learns_more_of_the_same_lines(run, tmp_path):
    small = "--width", 64, "--layers", 1, "--lr", 3e-3, "--weights", tmp_path / "bert.safetensors"
    before = run(1, "bert.py", *small, "--epochs", 2, "--lines", 6000)
    assert before["hidden_guessed"] > 0.3  # from 0.0005
    finetune = "--stage", "finetune", "--epochs", 5, "--labels", 400
    after = run(1, "bert.py", *small, *finetune, run_dir="fine-tuned")
    assert after["samples"] == 5 * 400
    assert after["pretrained"] > 0.58
    assert after["margin"] == pytest.approx(after["pretrained"] - after["fresh"])
    assert after["margin"] > 0.06
