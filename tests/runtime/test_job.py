"""Whole jobs: any number of workers, killed and resumed, give the weights of a quiet run."""

import json
import random
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.errors import CheckpointMismatch, UsageError
from holdfast.runtime.checkpoint import CheckpointStore
from holdfast.runtime.metrics import read_metrics

SCRIPT = Path(__file__).with_name("digits_worker.py")
SAMPLES = 1437
STEPS_PER_EPOCH = 15  # 96 at a time, 93 in the last


@pytest.fixture(scope="module")
def ran(workers):
    """Run the digits script to its end and return its result.json."""

    def run(size, run_dir, *args, **options):
        for code, errors in workers(size, SCRIPT, *args, run_dir=run_dir, **options):
            assert code == 0, errors
        return json.loads((run_dir / "result.json").read_text())

    return run


@pytest.fixture
def train(ran, tmp_path):
    """Do so in a folder of that name."""
    return lambda size, name, *args, **options: ran(size, tmp_path / name, *args, **options)


@pytest.fixture(scope="module")
def quiet(ran, tmp_path_factory):
    """Return the folder and result.json of a run that nothing befell; they are shared."""
    folder, known = tmp_path_factory.mktemp("quiet"), {}

    def run(*args, size=2):
        if (size, args) not in known:
            run_dir = folder / str(len(known))
            known[size, args] = run_dir, ran(size, run_dir, *args)
        return known[size, args]

    return run


def final_weights(run_dir):
    newest = sorted((run_dir / "checkpoints").iterdir())[-1]
    return load_file(newest / "model.safetensors")


@pytest.mark.local
@pytest.mark.parametrize("size", [2, 3])
def test_the_weights_are_the_same_over_shared_memory_and_tcp(train, quiet, size):
    run_dir, shm = quiet(size=size)
    tcp = train(size, "tcp", transport="tcp")
    assert (shm["transport"], tcp["transport"]) == ("shm", "tcp")
    assert shm["weights_sha256"] == tcp["weights_sha256"]
    assert shm["status"] == "finished"
    assert shm["steps"] == 2 * STEPS_PER_EPOCH
    assert shm["samples"] == 2 * SAMPLES
    losses = [line["loss"] for line in read_metrics(run_dir) if "loss" in line]
    assert losses[-1] == shm["loss"] < losses[0]


def test_the_script_s_digits_are_those_of_the_data_set():
    own = runpy.run_path(str(SCRIPT))["digits"]()
    for part, expected in zip(own, hf.datasets.digits(), strict=True):
        assert part.inputs.dtype == expected.inputs.dtype
        np.testing.assert_array_equal(part.inputs, expected.inputs)
        np.testing.assert_array_equal(part.targets, expected.targets)


@pytest.mark.local
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("--float64", 1e-12), pytest.param("--epochs=2", 2e-4, marks=pytest.mark.soak)],
)
def test_the_number_of_workers_changes_only_rounding(train, tmp_path, precision, tolerance):
    """96 on one worker, 48 on each of two, 24 on each of four; 93 are left for the last batch."""
    finals = []
    for size in (1, 2, 4):
        train(size, f"of{size}", precision)
        finals.append(final_weights(tmp_path / f"of{size}"))
    for name, expected in finals[0].items():
        for other in finals[1:]:
            difference = np.abs(other[name] - expected).max()
            print(name, difference)
            assert difference <= tolerance


@pytest.mark.local
def test_a_batch_taken_in_pieces_changes_only_rounding(train, tmp_path):
    """48 samples of a rank in pieces of 16, at last 31 in pieces of 11, 10 and 10."""
    whole = train(1, "whole", "--float64")
    pieces = train(2, "pieces", "--float64", "--accumulate=3")
    assert pieces["steps"] == whole["steps"]
    assert pieces["samples"] == whole["samples"]
    assert np.isclose(pieces["loss"], whole["loss"], rtol=1e-9)
    other = final_weights(tmp_path / "pieces")
    for name, expected in final_weights(tmp_path / "whole").items():
        assert np.abs(other[name] - expected).max() <= 1e-12


@pytest.mark.local
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]
)
def test_a_job_killed_at_any_step_resumes_to_the_same_weights(
    train, workers, quiet, tmp_path, seed
):
    options = ("--optimizer=Adam",) if seed % 2 else ()
    undisturbed, expected = quiet(*options)
    step = random.Random(seed).randrange(6, 2 * STEPS_PER_EPOCH)
    print("seed", seed, "killed after step", step)
    for code, _ in workers(2, SCRIPT, "--kill-at", step, *options, run_dir=tmp_path / "killed"):
        assert code == -9
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = train(2, "killed", *options)
    assert resumed["weights_sha256"] == expected["weights_sha256"]
    assert resumed["steps"] == expected["steps"]
    lines = [line for line in read_metrics(tmp_path / "killed") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    before = [line for line in read_metrics(undisturbed) if "loss" in line]
    assert [line["loss"] for line in lines] == [line["loss"] for line in before]


@pytest.mark.local
def test_another_number_of_workers_may_resume(train, workers, quiet, tmp_path):
    undisturbed, expected = quiet(size=1)
    workers(3, SCRIPT, "--kill-at", 12, run_dir=tmp_path / "killed")
    resumed = train(2, "killed")
    assert resumed["samples"] == expected["samples"]
    for name, weights in final_weights(undisturbed).items():
        np.testing.assert_allclose(
            final_weights(tmp_path / "killed")[name], weights, rtol=0, atol=2e-4
        )


@pytest.mark.local
def test_a_corrupt_checkpoint_is_reported_and_the_one_before_it_taken(
    train, workers, quiet, tmp_path
):
    _, expected = quiet()
    workers(2, SCRIPT, "--kill-at", 13, run_dir=tmp_path / "killed")
    newest = tmp_path / "killed" / "checkpoints" / "step_00000010" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert train(2, "killed")["weights_sha256"] == expected["weights_sha256"]
    assert CheckpointStore(tmp_path / "killed" / "checkpoints", report=print).newest() is not None


@pytest.mark.local
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--hidden=16",), "is of another model"),
        (("--optimizer=Adam",), "was trained with SGD, this script uses Adam"),
        (("--batch-size=64",), "was trained with batch_size 96, this run has 64"),
    ],
)
def test_a_run_directory_of_another_model_is_refused_by_every_rank(
    workers, quiet, tmp_path, args, message
):
    shutil.copytree(quiet("--epochs=1", size=1)[0], tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*.*")}
    for code, errors in workers(2, SCRIPT, *args, run_dir=tmp_path / "run"):
        assert code == 1
        assert message in errors.replace("\n", " ")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*.*")}


@pytest.mark.local
def test_never_refuses_a_directory_that_holds_checkpoints(workers, quiet, tmp_path):
    shutil.copytree(quiet("--epochs=1", size=1)[0], tmp_path / "run")
    ((code, errors),) = workers(1, SCRIPT, run_dir=tmp_path / "run", HOLDFAST_RESUME="never")
    assert code == 1
    assert "holds checkpoints already" in errors


@pytest.mark.local
def test_a_run_goes_on_from_a_named_checkpoint(train, quiet):
    _, longer = quiet()
    short, _ = quiet("--epochs=1")
    for named in (short, short / "checkpoints" / "step_00000015"):
        run = train(2, f"from-{named.name}", HOLDFAST_RESUME=str(named))
        assert run["weights_sha256"] == longer["weights_sha256"]


@pytest.mark.local
def test_a_rank_that_fails_ends_the_others_with_a_named_error(workers, tmp_path):
    results = workers(
        2, SCRIPT, "--raise-at=3", "--on-rank=1", run_dir=tmp_path / "run", transport="shm"
    )
    assert [code for code, _ in results] == [1, 1]
    assert "asked for at step 3" in results[1][1]
    # Which of the two, depends on how soon after the one comes the other.
    assert re.search(r"rank 1 \(process \d+\) has (closed its communicator|ended)", results[0][1])


@pytest.mark.local
def test_a_finished_run_that_is_started_again_keeps_its_figures(train, quiet, tmp_path):
    finished, first = quiet()
    shutil.copytree(finished, tmp_path / "run")
    again = train(2, "run")
    for name in ("steps", "samples", "loss", "test_accuracy", "weights_sha256"):
        assert again[name] == first[name]


@pytest.mark.local
def test_an_error_at_the_very_end_is_an_error(workers, tmp_path):
    """What fails when the job ends by itself must not leave status 0."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text() + "\njob._recorder.result = lambda result: 1 / 0\n")
    for code, errors in workers(2, script, "--epochs=1", run_dir=tmp_path / "run", transport="shm"):
        assert code == 1
        assert "ZeroDivisionError" in errors


@pytest.mark.local
def test_a_loop_that_is_left_early_says_that_it_has_no_result(workers, tmp_path):
    for code, _ in workers(1, SCRIPT, "--break-at=3", run_dir=tmp_path / "left"):
        assert code == 0
    assert not (tmp_path / "left" / "result.json").exists()
    for code, _ in workers(2, SCRIPT, "--break-at=3", "--finish", run_dir=tmp_path / "finished"):
        assert code == 0
    result = json.loads((tmp_path / "finished" / "result.json").read_text())
    assert (result["steps"], result["samples"]) == (3, 3 * 96)


@pytest.mark.local
def test_a_wrong_token_is_one_clear_error(workers, tmp_path):
    (_, first), (code, second) = workers(
        2, SCRIPT, run_dir=tmp_path / "run", timeout=90, rank_1={"HOLDFAST_TOKEN": "cd" * 32},
        rank_0={"HOLDFAST_RENDEZVOUS_SECONDS": "5"},
    )  # fmt: skip
    assert code == 1
    assert "HOLDFAST_TOKEN of the two differ" in second
    assert second.count("Traceback") == 1
    assert "rank(s) 1 of 2 did not come" in first


@pytest.fixture
def alone(tmp_path):
    job = hf.init(hf.WorkerSpec(run_dir=tmp_path / "run"))
    yield job
    job.close()


def small():
    model = nn.Linear(3, 2)
    return model, optim.SGD(model.parameters(), lr=0.1)


def points(count=10):
    rng = np.random.default_rng(1)
    return hf.datasets.ArrayDataset(
        rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 2, count)
    )


def test_a_job_of_one_leaves_a_whole_run_directory(alone, tmp_path):
    model, optimizer = small()
    alone.prepare(model, optimizer, checkpoint_every=2)
    for x, y in alone.batches(points(), batch_size=4, epochs=2):
        alone.backward(F.cross_entropy(model(x), y))
        alone.step()
    alone.log(test_accuracy=0.5)
    alone.finish()
    alone.finish()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["samples"], result["world_size"]) == (6, 20, 1)
    assert result["test_accuracy"] == 0.5
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoints", "metrics.jsonl", "tensorboard", "curves.png", "result.json"}
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step_00000003",
        "step_00000004",
        "step_00000006",
    ]


def test_the_loop_s_mistakes_are_named(alone):
    model, optimizer = small()
    with pytest.raises(UsageError, match=r"prepare\(.* comes first"):
        next(alone.batches(points(), 4, 1))
    alone.prepare(model, optimizer)
    with pytest.raises(UsageError, match="prepare was called twice"):
        alone.prepare(model, optimizer)
    batches = alone.batches(points(), 4, 1)
    x, y = next(batches)
    with pytest.raises(UsageError, match="step was called"):
        alone.step()
    alone.backward(F.cross_entropy(model(x), y))
    with pytest.raises(UsageError, match="called twice"):
        alone.backward(F.cross_entropy(model(x), y))
    with pytest.raises(UsageError, match="for step 0 called job"):
        next(batches)
    with pytest.raises(UsageError, match=r"job.sum: one number .* shape \(2,\): sum its"):
        alone.sum(np.ones(2))
    assert alone.sum(x.sum() * 0 + 3) == 3.0
    with pytest.raises(UsageError, match="accumulate is"):
        next(alone.batches(points(), 4, 1, accumulate=0))


def test_a_piece_that_is_not_stepped_is_named(alone):
    model, optimizer = small()
    alone.prepare(model, optimizer)
    batches = alone.batches(points(), 4, 1, accumulate=2)
    x, y = next(batches)
    alone.backward(F.cross_entropy(model(x), y))
    with pytest.raises(UsageError, match="piece 0 of step 0"):
        next(batches)


def test_metrics_belong_to_their_steps_and_may_be_numpy_s(alone, tmp_path):
    model, optimizer = small()
    alone.prepare(model, optimizer)
    for x, y in alone.batches(points(), batch_size=4, epochs=1):
        alone.backward(F.cross_entropy(model(x), y))
        alone.log(gradient=np.float32(0.5))
        alone.step()
        with pytest.raises(UsageError, match="steps"):
            alone.log(steps=1.0)
    alone.finish()
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in lines if "gradient" in line] == [0, 1, 2]


def test_another_schedule_than_the_checkpoint_s_is_refused(tmp_path):
    for scheduled in (True, False):
        job = hf.init(hf.WorkerSpec(run_dir=tmp_path / "run"))
        model, optimizer = small()
        schedule = optim.lr_scheduler.StepLR(optimizer, 5) if scheduled else None
        try:
            if scheduled:
                job.prepare(model, optimizer, schedule)
                for x, y in job.batches(points(), 4, 1):
                    job.backward(F.cross_entropy(model(x), y))
                    job.step()
                job.finish()
            else:
                with pytest.raises(CheckpointMismatch, match="schedule StepLR"):
                    job.prepare(model, optimizer, schedule)
        finally:
            job.close()


def test_another_seed_than_the_checkpoint_s_is_refused(tmp_path):
    def run(seed):
        job = hf.init(hf.WorkerSpec(run_dir=tmp_path / "run", seed=seed))
        try:
            model, optimizer = small()
            job.prepare(model, optimizer)
            for x, y in job.batches(points(), 4, 1):
                job.backward(F.cross_entropy(model(x), y))
                job.step()
            job.finish()
        finally:
            job.close()
        return job.seed

    assert run(3) == 3
    assert run(None) == 3
    with pytest.raises(UsageError, match="trained with seed 3, --seed is 4"):
        run(4)


def test_a_mismatch_names_both_arrays(tmp_path):
    for width in (2, 5):
        job = hf.init(hf.WorkerSpec(run_dir=tmp_path / "run"))
        model = nn.Linear(3, width)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        if width == 5:
            with pytest.raises(CheckpointMismatch, match=r"weight.*\[2, 3\].*weight.*\[5, 3\]"):
                job.prepare(model, optimizer)
        else:
            job.prepare(model, optimizer)
            for x, y in job.batches(points(), 4, 1):
                job.backward(F.cross_entropy(model(x), y))
                job.step()
            job.finish()
        job.close()
