"""Killed at any moment and started again, a run ends with the same records."""

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from oodbench import execute, work
from oodbench.__main__ import main
from oodbench.api import Places
from oodbench.plan import Request, make_plan, planned_subjects
from oodbench.progress import BarProgress, Foresight, LineProgress, Progress, Task
from oodbench.records import find_records, read_scores
from oodbench.store import TensorStore
from oodbench.trainer import train
from oodbench.workbench import Settings, Workbench

KILLS = 10


@pytest.fixture(scope="session")
def processes() -> Any:
    """Processes that start with everything imported, but nothing computed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["oodbench.api", "oodbench.trainer", "torch._dynamo", "sklearn"])
    return context


class Forked:
    """A run in a process made for it."""

    budget = "20"
    earliest = 0.0

    def __init__(self, processes: Any, arguments: list[str]) -> None:
        self._process = processes.Process(target=main, args=(arguments,))
        self._process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()


class Spawned:
    """A run as a user starts it; half of its time is spent on imports."""

    budget = "100"
    earliest = 0.4

    def __init__(self, processes: Any, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "oodbench", *arguments]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self, seconds: float | None = None) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("start", [Forked, pytest.param(Spawned, marks=pytest.mark.slow)])
def test_killed_at_ten_random_moments_a_run_ends_with_the_records_of_an_uninterrupted_one(
    start: Any,
    processes: Any,
    tiny: str,
    tmp_path: Path,
    rng: random.Random,
    contents: Callable[[Path], Any],
) -> None:
    def arguments(results: Path, store: Path) -> list[str]:
        chosen = ["--detector", "msp,oe", "--attack", "none,linf", "--schedule", "long"]
        places = ["--results", str(results), "--store", str(store), "--device", "cpu"]
        return ["run", "--suite", tiny, *chosen, "--budget", start.budget, *places]

    reference = start(processes, arguments(tmp_path / "warm up", tmp_path / "store 0"))
    assert reference.wait() == 0
    begin = time.monotonic()
    reference = start(processes, arguments(tmp_path / "whole", tmp_path / "store 1"))
    assert reference.wait() == 0
    length = time.monotonic() - begin
    expected = contents(tmp_path / "whole")
    assert len(find_records(tmp_path / "whole")) == 8

    results, store = tmp_path / "killed", tmp_path / "store 2"
    killed, finished, tale = 0, {}, []
    while killed < KILLS:
        begin = time.monotonic()
        process = start(processes, arguments(results, store))
        if process.wait(rng.uniform(start.earliest, 0.95) * length) is None:
            process.kill()
            killed += 1
            there = len(find_records(results)) if results.exists() else 0
            tale.append(f"{time.monotonic() - begin:.1f} s: {there} records")
        else:
            tale.append("went to its end; started afresh")
            assert contents(results) == expected
            shutil.rmtree(results)
            shutil.rmtree(store)
            finished = {}
        for path, stamp in finished.items():
            assert path.stat().st_mtime_ns == stamp, f"{path} was written twice"
        for record in find_records(results) if results.exists() else []:
            read_scores(record)
            for path in (record, record.with_suffix(".npz")):
                finished[path] = path.stat().st_mtime_ns
    assert start(processes, arguments(results, store)).wait() == 0
    for path, stamp in finished.items():
        assert path.stat().st_mtime_ns == stamp, f"{path} was written twice"
    assert contents(results) == expected
    assert not [path for path in store.rglob("*") if path.suffix in (".tmp", ".checkpoint")]
    print(f"{length:.1f} s uninterrupted; killed after", *tale, sep="\n  ")


def test_two_processes_on_one_store_do_not_harm_each_other(
    processes: Any, tiny: str, tmp_path: Path, contents: Callable[[Path], Any]
) -> None:
    def arguments(name: str) -> list[str]:
        places = ["--results", str(tmp_path / name), "--store", str(tmp_path / f"{name}-store")]
        chosen = ["--detector", "msp,mahalanobis,oe", "--attack", "none,linf"]
        return ["run", "--suite", tiny, *chosen, *places, "--device", "cpu"]

    assert Forked(processes, arguments("single")).wait() == 0
    pair = [Forked(processes, arguments("shared")) for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    assert contents(tmp_path / "shared") == contents(tmp_path / "single")


def test_a_cell_that_was_stopped_half_way_does_only_the_rest(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: Any
) -> None:
    cell = ("--detector", "msp", "--attack", "linf", "--ood", "rings")
    whole = tmp_path / "whole"
    assert run(*cell, results=whole).code == 0

    monkeypatch.setattr(execute, "_RANGE", 8)
    pieces: list[tuple[int, int]] = []
    done = execute.run_work

    def interrupted(piece: work.Work, *rest: Any) -> Any:
        if len(pieces) == 2:
            raise KeyboardInterrupt
        pieces.append((piece.start, piece.stop))
        return done(piece, *rest)

    monkeypatch.setattr(execute, "run_work", interrupted)
    stopped = run(*cell)
    assert stopped.code == 130
    assert stopped.out == ""
    assert "are kept" in stopped.err
    assert "the same command goes on" in stopped.err
    assert "Traceback" not in stopped.err

    def counted(piece: work.Work, *rest: Any) -> Any:
        pieces.append((piece.start, piece.stop))
        return done(piece, *rest)

    monkeypatch.setattr(execute, "run_work", counted)
    assert run(*cell).code == 0
    assert pieces == [(0, 8), (8, 16), (16, 24), (24, 30)]
    ours, theirs = contents(tmp_path / "results"), contents(whole)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        if "ids" in value:
            assert value == theirs[path]
        elif path.endswith(".npz"):
            np.testing.assert_allclose(value["scores"], theirs[path]["scores"], atol=1e-5)
        else:
            assert value["attack"]["won"].keys() == theirs[path]["attack"]["won"].keys()
            assert value["attack"]["steps"] == theirs[path]["attack"]["steps"]
            assert value["identity"] == theirs[path]["identity"]


def test_pieces_of_a_stopped_run_are_not_used_with_force_other_weights_or_when_damaged(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_store: Path
) -> None:
    cell = ("--detector", "msp", "--attack", "linf", "--ood", "rings")
    monkeypatch.setattr(execute, "_RANGE", 15)
    done = execute.run_work
    pieces: list[int] = []

    def interrupted(piece: work.Work, *rest: Any) -> Any:
        pieces.append(piece.start)
        if piece.start:
            raise KeyboardInterrupt
        return done(piece, *rest)

    monkeypatch.setattr(execute, "run_work", interrupted)
    assert run(*cell).code == 130
    assert run(*cell).code == 130
    assert pieces == [0, 15, 15]
    assert run(*cell, "--force").code == 130
    assert pieces[3:] == [0, 15]
    other = tmp_path / "other"
    shutil.copytree(shared_store, other)
    (path,) = (other / "tiny/weights/plain").glob("conv3-fast-0--*.safetensors")
    identity = json.loads(path.with_suffix(".json").read_text())["identity"]
    tensors = {name: tensor * 1.25 for name, tensor in load_file(path).items()}
    TensorStore(other).save(path, tensors, identity, {})
    assert run(*cell, store=other).code == 130
    assert pieces[5:] == [0, 15]
    assert run(*cell).code == 130
    assert pieces[7:] == [0, 15]
    (kept,) = tmp_path.rglob("0-15.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert run(*cell).code == 130
    assert pieces[9:] == [0, 15]


class _Stopping(Progress):
    """Stops the work after so many steps, as a kill would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def task(self, description: str, total: float, done: float = 0) -> Iterator[Task]:
        yield self

    def advance(self, amount: float, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def expect(self, amount: float) -> None:
        return


def test_the_time_left_of_resumed_work_is_reckoned_from_what_was_done_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = io.StringIO()
    with LineProgress(log).task("work", total=100, done=50) as task:
        now += 20
        task.advance(1)
        assert log.getvalue() == ""  # too little to tell
        now += 20
        task.advance(9, "well")
    assert log.getvalue() == "work: 60 %, 160 s left; well\n"


def test_work_that_was_not_foreseen_is_still_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = io.StringIO()
    with LineProgress(log).task("work", total=100) as task:
        task.expect(100)
        now += 100
        task.advance(100)
    assert log.getvalue() == "work: 50 %, 100 s left\n"

    console = Console(file=io.StringIO(), force_terminal=True)
    with BarProgress(console) as bars, bars.task("work", 100) as task:
        task.advance(100)
        task.expect(300)
        assert bars._bars.tasks[0].percentage == 25


def test_work_met_on_some_images_is_foreseen_for_those_that_are_left() -> None:
    told: list[float] = []
    ahead = Foresight(told.append, 100)
    ahead.kept(20)
    ahead.begin(20)
    assert told == []
    ahead.meet(50)  # 20 of 80 images have met it: 200 in all
    assert sum(told) == 200
    ahead.begin(20)
    assert sum(told) == 200
    ahead.begin(10)  # none on those before: 50 on 40 images
    assert sum(told) == 100
    ahead.meet(50)  # 100 on 50 images
    assert sum(told) == 160
    ahead.begin(30)
    assert sum(told) == 160
    ahead.end()  # none on the last
    assert sum(told) == 100


TRAINED = ("msp", "oe", "acet", "ccu", "rowl", "sofl", "ntom", "atom", "energy_finetuned")
"""Detectors of all recipes."""


@pytest.mark.parametrize("detector", TRAINED)
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_training_stopped_in_any_epoch_ends_with_the_same_weights_bit_for_bit(
    detector: str, share: float, tiny: str, tmp_path: Path
) -> None:
    bench = Workbench(Settings("cpu", 256, tmp_path, tmp_path))
    asked = Request(suite=tiny, detectors=(detector,), schedule="long")
    taught = planned_subjects(asked, bench)[0].taught
    before = bench.start(taught)
    start = None if before is None else bench.weights(before).tensors
    request = bench.training_request(taught, start)
    device = torch.device("cpu")
    whole = _Stopping(10_000)
    expected = train(request, device, progress=whole).tensors()
    steps = 10_000 - whole.left
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(request, device, checkpoint, _Stopping(int(share * steps)))
    assert checkpoint.exists()
    resumed = train(request, device, checkpoint, counted := _Stopping(10_000)).tensors()
    assert 0 < 10_000 - counted.left < steps
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_run_stopped_while_training_goes_on_from_its_epoch_and_leaves_no_checkpoint(
    tiny: str, tmp_path: Path, contents: Callable[[Path], Any]
) -> None:
    from oodbench.api import run

    request = Request(suite=tiny, detectors=("msp",), ood=("rings",))

    def places(name: str) -> Places:
        return Places("cpu", results=tmp_path / name, store=tmp_path / f"{name}-store")

    run(request, places("whole"))
    with pytest.raises(KeyboardInterrupt):
        run(request, places("stopped"), _Stopping(4))
    assert len(list(tmp_path.rglob("*.checkpoint"))) == 1
    run(request, places("stopped"))
    assert not list(tmp_path.rglob("*.checkpoint"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_work_is_plain_data_that_another_process_does_with_the_same_result(
    processes: Any, tiny: str, plugins: Path, shared_store: Path, tmp_path: Path
) -> None:
    settings = Settings("cpu", 256, tmp_path, shared_store)
    bench = Workbench(settings)
    request = Request(
        suite=tiny, detectors=("msp", str(plugins / "mine.py")), attacks=("linf",), ood=("rings",)
    )
    plan = make_plan(request, bench, tmp_path)
    for cell in plan.cells:
        (here,) = work.run_work(work.Work((cell,), 0, 30), bench)
        assert isinstance(here, work.Piece)
        halves = [work.Work((cell,), 0, 11), work.Work((cell,), 11, 30)]
        with processes.Pool(1) as pool:
            (there,) = pool.apply(work.run_in_process, (work.Work((cell,), 0, 30), settings))
            parts = [pool.apply(work.run_in_process, (half, settings))[0] for half in halves]
        assert here.arrays.keys() == there.arrays.keys()
        for name, array in here.arrays.items():
            np.testing.assert_array_equal(array, there.arrays[name])
        ids = np.concatenate([part.arrays["ids"] for part in parts])
        scores = np.concatenate([part.arrays["scores"] for part in parts])
        np.testing.assert_array_equal(ids, here.arrays["ids"])
        np.testing.assert_allclose(scores, here.arrays["scores"], atol=1e-5)
