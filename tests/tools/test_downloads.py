"""Downloads against a server of our own: small files of the same form, and all that can go wrong on the way."""

import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from course_lib import downloads
from course_lib.data import ALPHABET, decode
from course_lib.downloads import download, text8

TEXT = ("anarchism originated as a term of abuse " * 25)[:1000]


def archive(text=TEXT, name="text8"):
    """text8.zip, but small."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as f:
        f.writestr(name, text)
    return whole.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body`; breaks off after each number of bytes in `breaks`; notes what was asked for."""

    body, breaks, ranges, status, asked = b"", (), True, None, ()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        s = self.server
        wanted = self.headers.get("Range")
        s.asked = [*s.asked, wanted]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and s.ranges else 0
        if s.status or start >= len(s.body):
            self.send_response(s.status or 416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(s.body) - start))
        self.end_headers()
        end = len(s.body)
        if s.breaks:
            end, s.breaks = start + s.breaks[0], s.breaks[1:]
        self.wfile.write(s.body[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "PAUSE", 0)
    monkeypatch.setattr(downloads, "CHUNK", 1)
    with Server(("127.0.0.1", 0), Handler) as made:
        made.body, made.url = archive(), f"http://127.0.0.1:{made.server_port}/text8.zip"
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def fetched(server, split="train"):
    return text8(split, server.url, sha256(server.body))


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_text8_is_fetched_once_and_split_as_published(server, tmp_path):
    rows = [fetched(server, split) for split in ("train", "val", "test")]
    assert server.asked == [None] and left(tmp_path) == {"text8.zip"}
    assert [decode(row) for row in rows] == [TEXT[:900], TEXT[900:950], TEXT[950:]]
    assert all(row.dtype == torch.int8 for row in rows)
    with pytest.raises(ValueError, match="split must be one of train, val, test, not 'dev'"):
        text8("dev")


@pytest.mark.parametrize("breaks", [(100,), (0, 50, 20), (1, 1, 1, 1)])
def test_a_broken_connection_is_taken_up_where_it_ended(server, tmp_path, breaks):
    server.breaks = breaks
    assert decode(fetched(server)) == TEXT[:900]
    ends = [sum(breaks[: i + 1]) for i in range(len(breaks))]
    assert server.asked == [None, *[f"bytes={end}-" if end else None for end in ends]]
    assert left(tmp_path) == {"text8.zip"}


def test_what_came_is_kept_when_all_tries_break(server, tmp_path):
    server.breaks = (100, 10, 10, 10, 10)
    with pytest.raises(
        ConnectionError, match=r"could not be fetched \(.*\); 140 bytes are kept in .*text8.zip.part"
    ):
        fetched(server)
    assert left(tmp_path) == {"text8.zip.part"} and (tmp_path / "text8.zip.part").stat().st_size == 140
    assert decode(fetched(server)) == TEXT[:900] and server.asked[-1] == "bytes=140-"


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.ranges, server.breaks = False, (100,)
    assert decode(fetched(server)) == TEXT[:900] and left(tmp_path) == {"text8.zip"}


def test_all_of_it_came_but_the_end_was_not_noticed(server, tmp_path):
    (tmp_path / "text8.zip.part").write_bytes(server.body)
    assert decode(fetched(server)) == TEXT[:900] and server.asked == [f"bytes={len(server.body)}-"]


def test_the_part_of_another_file_is_fetched_again_whole(server, tmp_path):
    (tmp_path / "text8.zip.part").write_bytes(b"of another file")
    assert decode(fetched(server)) == TEXT[:900]
    assert server.asked == ["bytes=15-", None] and left(tmp_path) == {"text8.zip"}


def test_another_checksum_is_refused_and_nothing_stays(server, tmp_path):
    with pytest.raises(ValueError, match="is not the file that was meant: SHA256 hash"):
        text8("train", server.url, "0" * 64)
    assert left(tmp_path) == set()


def test_a_file_damaged_in_the_cache_is_fetched_again(server, tmp_path):
    whole = fetched(server)
    path = tmp_path / "text8.zip"
    path.write_bytes(path.read_bytes()[:-30])
    assert fetched(server).equal(whole) and len(server.asked) == 2


@pytest.mark.parametrize(
    "body, says",
    [
        (archive()[:-30], "is no archive that holds text8: File is not a zip file"),
        (archive(name="enwik8"), "is no archive that holds text8: .*no item named 'text8'"),
        (archive(TEXT + "!"), "must hold a-z and spaces only, not '!'"),
    ],
)
def test_a_file_of_another_form_is_refused(server, body, says):
    server.body = body
    with pytest.raises(ValueError, match=says):
        fetched(server)


def test_refusals_are_not_tried_again_but_faults_are(server):
    for status, tries in ((404, 1), (500, downloads.TRIES)):
        server.status, server.asked = status, ()
        with pytest.raises(ConnectionError, match=f"could not be fetched .{status}"):
            fetched(server)
        assert len(server.asked) == tries


def test_no_server_and_no_folder(server, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match="could not be fetched"):
        download("http://127.0.0.1:9/x", "0" * 64, "x")
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.raises(OSError, match="the cache folder cannot be written there"):
        fetched(server)


def test_the_published_file():
    """What is written down about it, and that nothing is fetched on import."""
    assert downloads.TEXT8.endswith("/text8.zip") and len(downloads.TEXT8_SHA256) == 64
    assert [end - start for start, end in downloads.SPLITS.values()] == [90, 5, 5] and len(ALPHABET) == 27
    code = "import sys, course_lib.downloads, course_lib.recipes.text8; print({'pooch', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
