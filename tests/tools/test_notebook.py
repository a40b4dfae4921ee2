"""The first cell and the progress line."""

import io
import platform
import signal
import sys
import threading
from dataclasses import FrozenInstanceError
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

import course_lib
from course_lib import notebook
from course_lib.notebook import Course

NAMES = ("COURSE_THREADS", "OMP_NUM_THREADS", "COURSE_FAST", "COURSE_SOLUTIONS", "COURSE_STATIC")
QUIET = ("CI", "PYTEST_VERSION", "PYTEST_CURRENT_TEST")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No switch is set; threads are put back."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seen(monkeypatch):
    """Somebody watches; returns what the bar was told."""
    told = []

    class Bar:
        def __init__(self, **kw):
            told.append(kw)

        def set_postfix(self, **kw):
            told.append(kw)

        def update(self, n):
            told.append(n)

        def close(self):
            told.append("closed")

    monkeypatch.setattr(notebook, "tqdm", Bar)
    monkeypatch.setattr(notebook, "watched", lambda: True)
    return told


def course(**kw):
    return Course("01_ddpm", torch.device("cpu"), fast=False, **kw)


# --- setup ---


def test_setup_tells_what_this_run_is(monkeypatch, capsys):
    monkeypatch.setattr(notebook, "best_device", lambda: torch.device("mps"))
    monkeypatch.setattr(notebook, "run_time", lambda chapter: f"run time of {chapter}")
    got = notebook.setup("01_ddpm", seed=3)
    assert capsys.readouterr().out == (
        f"01_ddpm | course_lib {course_lib.__version__} | python {platform.python_version()} | "
        f"torch {version('torch')} | numpy {version('numpy')} | matplotlib {version('matplotlib')}\n"
        f"device: mps | threads: {torch.get_num_threads()} | seed: 3\n"
        "exercises: yours | training: full\n"
        "run time of 01_ddpm\n"
    )
    assert got == Course("01_ddpm", torch.device("mps"), fast=False, root=notebook.ROOT)


def test_setup_tells_its_modes(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_FAST", "1")
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    assert notebook.setup("01_ddpm").fast is True
    out = capsys.readouterr().out
    assert "| seed: 0\nexercises: solutions | training: fast (a few steps)\nrun time: " in out


def test_setup_seeds_torch():
    notebook.setup("01_ddpm", seed=7)
    first = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(3))


def test_setup_sets_the_threads_it_is_told(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    notebook.setup("01_ddpm")
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("COURSE_THREADS", "1")
    notebook.setup("01_ddpm")
    assert torch.get_num_threads() == 1 and "threads: 1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("listed", "want"), [("4,2", 4), (" 3 , 1", 3), ("dynamic", None), ("0", None), ("", None), ("-2", None)]
)
def test_openmp_may_list_a_number_for_each_level(monkeypatch, listed, want):
    monkeypatch.setenv("OMP_NUM_THREADS", listed)
    assert notebook.threads_wanted() == want
    monkeypatch.setenv("COURSE_THREADS", "1")
    assert notebook.threads_wanted() == 1


@pytest.mark.parametrize("threads", ["0", "many", "-1", "4,2"])
def test_threads_must_be_a_number(monkeypatch, threads):
    monkeypatch.setenv("COURSE_THREADS", threads)
    with pytest.raises(ValueError, match=f"must be a number of threads, not '{threads}'"):
        notebook.setup("01_ddpm")


def test_setup_turns_double_resolution_off(monkeypatch):
    backend = SimpleNamespace(figure_formats={"retina"})
    shell = object()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    made = lambda parent: backend if parent is shell else None  # noqa: E731
    monkeypatch.setattr(notebook, "InlineBackend", SimpleNamespace(instance=made))
    notebook.setup("01_ddpm")
    assert backend.figure_formats == {"png"}


def test_outside_of_ipython_there_is_no_resolution_to_set(monkeypatch):
    monkeypatch.setattr(notebook, "get_ipython", lambda: None)
    monkeypatch.setattr(notebook, "InlineBackend", None)
    notebook.plain_figures()


@pytest.mark.parametrize(
    ("cuda", "mps", "want"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, want):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert notebook.best_device() == torch.device(want)


# --- the course object ---


def test_a_course_does_not_change():
    with pytest.raises(FrozenInstanceError):
        course().fast = True


def test_fast_mode_cuts_training():
    fast = Course("01_ddpm", torch.device("cpu"), fast=True)
    assert (fast.steps(1000), fast.steps(2), course().steps(1000)) == (3, 2, 1000)


def test_the_root_is_the_folder_that_holds_the_library():
    assert notebook.ROOT.joinpath("course_lib", "notebook.py").samefile(notebook.__file__)
    assert course().root == notebook.ROOT


def test_assets_and_weights_are_found(tmp_path):
    folder = tmp_path / "assets" / "01_ddpm"
    folder.mkdir(parents=True)
    (folder / "mnist.safetensors").write_bytes(b"x")
    assert course(root=tmp_path).assets == folder
    assert course(root=tmp_path).weights("mnist.safetensors") == folder / "mnist.safetensors"


def test_missing_assets_say_how_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"assets.01_ddpm is missing: .* `pip install -e \.`"):
        _ = course(root=tmp_path).assets


def test_missing_weights_say_what_there_is(tmp_path):
    folder = tmp_path / "assets" / "01_ddpm"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no weights 'x\.safetensors' in .*; there: none$"):
        course(root=tmp_path).weights("x.safetensors")
    for name in ("b.safetensors", "a.safetensors", "log.json"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"there: a\.safetensors, b\.safetensors$"):
        course(root=tmp_path).weights("x.safetensors")


# --- progress ---


def records(losses):
    return [SimpleNamespace(loss=loss) for loss in losses]


def test_unwatched_training_prints_one_line_and_passes_the_records_through(capsys):
    given = records([torch.tensor([0.25, 0.75]), torch.tensor(0.25, requires_grad=True), 0.75])
    assert list(notebook.watch(given, 3)) == given
    out, err = capsys.readouterr()
    assert out == "training: 3 steps, final loss 0.500\n" and err == ""


def test_the_final_loss_is_the_mean_of_the_last_records(capsys):
    list(notebook.watch(records([9.0] * 20 + [1.0] * 20), 40, "digits"))
    list(notebook.watch(records([9.0, 1.0, 2.0]), 3, every=2))
    assert capsys.readouterr().out == (
        "digits: 40 steps, final loss 1.000\ntraining: 3 steps, final loss 1.500\n"
    )


def test_a_run_that_stops_early_says_so(capsys):
    for record in notebook.watch(records([1.0, 2.0, 3.0]), 3):
        if record.loss == 2.0:
            break
    assert capsys.readouterr().out == "training: 2 of 3 steps, final loss 1.500\n"


def interrupted(after, every=1.0):
    """Records, and the stop button during the step that follows so many."""
    for n in range(1500):
        if n == after:
            raise KeyboardInterrupt
        yield SimpleNamespace(loss=every)


def test_an_interrupt_ends_the_training_and_not_the_cell(capsys):
    seen = [record.loss for record in notebook.watch(interrupted(475), 1500)]
    assert len(seen) == 475
    assert capsys.readouterr().out == "training: stopped after 475 of 1500 steps, final loss 1.000\n"


def test_an_interrupt_before_the_first_step_is_passed_on(capsys):
    with pytest.raises(KeyboardInterrupt):
        list(notebook.watch(interrupted(0), 1500))
    assert capsys.readouterr().out == ""


@pytest.fixture
def interruptible():
    """SIGINT raises, also where this process was started in the background, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_lets_the_step_end_and_a_second_one_is_raised(capsys):
    before, seen = signal.getsignal(signal.SIGINT), []
    for n, record in enumerate(notebook.watch(records(torch.rand(50).unbind()), 50)):
        if n == 3:
            signal.raise_signal(signal.SIGINT)  # in the cell's own line: here a GPU waits
        seen.append(record)
    assert len(seen) == 4 and capsys.readouterr().out.startswith("training: stopped after 4 of 50 steps")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        for _ in notebook.watch(records(torch.rand(50).unbind()), 50):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_during_a_step_lets_it_end(capsys):
    done = []

    def training():
        for n in range(50):
            if n == 7:
                signal.raise_signal(signal.SIGINT)
            done.append(n)
            yield SimpleNamespace(loss=1.0)

    assert len(list(notebook.watch(training(), 50))) == 8 == len(done)
    assert "stopped after 8 of 50 steps" in capsys.readouterr().out


def test_in_another_thread_training_is_watched_too(capsys):
    thread = threading.Thread(target=lambda: list(notebook.watch(records([1.0, 2.0]), 2)))
    thread.start()
    thread.join()
    assert capsys.readouterr().out == "training: 2 steps, final loss 1.500\n"


def test_a_bar_leaves_nothing_but_the_last_line(monkeypatch, capsys):
    monkeypatch.setattr(notebook, "watched", lambda: True)
    monkeypatch.setattr(notebook, "live", lambda: True)
    list(notebook.watch(records([1.0] * 40), 40))
    out, err = capsys.readouterr()
    assert "0/40" in out and err == ""
    assert out.rsplit("\r", 1)[-1].startswith("training: 40 steps, final loss 1.000")


def test_no_records_no_line(capsys):
    assert list(notebook.watch([], 3)) == []
    assert capsys.readouterr().out == ""


def test_a_watched_run_has_a_bar_that_reads_few_losses_and_ends_with_seconds(seen, capsys, monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(notebook.time, "perf_counter", lambda: next(clock))
    list(notebook.watch(records([0.5, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]), 7, "digits", every=3))
    assert seen == [
        {"total": 7, "desc": "digits", "disable": False, "leave": False, "file": sys.stderr},
        {"loss": "2.000", "refresh": False},
        3,
        {"loss": "6.000", "refresh": False},
        3,
        "closed",
    ]
    assert capsys.readouterr().out == "digits: 7 steps, final loss 6.000, 2.5 s\n"


def test_an_unwatched_run_reads_no_loss_before_its_end(monkeypatch):
    reads = []
    real = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: reads.append(1) or real(self))
    for _ in notebook.watch(records(torch.rand(50).unbind()), 50):
        assert not reads
    assert len(reads) == 20


def test_a_crash_of_training_closes_the_bar_and_is_passed_on(seen):
    def crashing():
        yield SimpleNamespace(loss=1.0)
        raise FloatingPointError("loss is NaN at step 1")

    with pytest.raises(FloatingPointError, match="NaN at step 1"):
        list(notebook.watch(crashing(), 2))
    assert seen[-1] == "closed"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("kernel", "terminal", "switch", "want"),
    [
        (True, False, None, True),
        (False, True, None, True),
        (False, False, None, False),
        (True, True, "CI", False),
        (True, True, "PYTEST_VERSION", False),
        (True, True, "PYTEST_CURRENT_TEST", False),
        (False, True, "COURSE_STATIC", False),
    ],
)
def test_a_bar_is_drawn_only_where_somebody_watches(monkeypatch, kernel, terminal, switch, want):
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    if switch:
        monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(notebook, "live", lambda: kernel)
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert notebook.watched() is want


def test_setup_says_how_long_a_stored_run_took(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    assert notebook.run_time("01_x") == "run time: not measured yet"
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "run_times.json").write_text('{"01_x": {"seconds": 42, "cores": 2}}')
    assert notebook.run_time("01_x") == "run time: 42 s when its outputs were stored, on 2 CPU cores"
    assert notebook.run_time("02_y") == "run time: not measured yet"
