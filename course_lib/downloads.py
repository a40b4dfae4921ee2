"""Data that no package holds: fetched when it is asked for, never at import, kept in the cache folder.

A file counts only if its sha256 is the one written here. What came before a connection broke is kept, and the next try
goes on from there.
"""

import shutil
import time
import zipfile
from pathlib import Path
from zlib import error as BadStream

import numpy as np
import torch
from jaxtyping import Int8
from torch import Tensor

from .data import ALPHABET
from .files import cache_folder, check_writable, needs
from .shapes import check_choice

TRIES, PAUSE = 5, 2.0  # how often a broken connection is taken up again, and seconds
CHUNK = 1 << 16  # bytes; what is left of one when the connection breaks is lost


# text8: the first 100 million characters of English Wikipedia in 2006, in a-z and single spaces (M. Mahoney). The
# sha256 is that of the archive in several public records; https://mattmahoney.net/dc/textdata.html says its MD5 inside.
TEXT8 = "http://mattmahoney.net/dc/text8.zip"
TEXT8_SHA256 = "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"
SPLITS = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}  # hundredths


def text8(
    split: str = "train", url: str = TEXT8, sha256: str = TEXT8_SHA256
) -> Int8[Tensor, " N"]:
    """The first 90, the next 5 or the last 5 million characters, numbered as in ALPHABET, one byte each.

    The splits of D3PM, SEDD and MD4. 31 MB are downloaded once. Raises ConnectionError where they cannot be had,
    ValueError for a file that is not the one meant.
    """
    check_choice("split", split, tuple(SPLITS))
    path = download(url, sha256, "text8.zip")
    row = numbered(unzipped(path, "text8"), path)
    start, end = (len(row) * part // 100 for part in SPLITS[split])
    return torch.from_numpy(row[start:end].copy())


def unzipped(path: Path, name: str) -> bytes:
    """A file out of an archive. ValueError if the archive is damaged or holds no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, BadStream, EOFError, KeyError) as error:
        raise ValueError(f"{path} is no archive that holds {name}: {error}") from error


def numbered(text: bytes, path: Path) -> np.ndarray:
    """Characters as numbers in ALPHABET. ValueError for any other."""
    strange = len(ALPHABET)
    number = np.full(256, strange, np.int8)
    number[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(strange)
    row = number[np.frombuffer(text, np.uint8)]
    if (row == strange).any():
        which = text[int((row == strange).argmax())]
        raise ValueError(f"{path} must hold a-z and spaces only, not {chr(which)!r}")
    return row


# Fetching


def download(url: str, sha256: str, name: str) -> Path:
    """The file at this address, kept as <name> in the cache folder (COURSE_CACHE); fetched if it is not there.

    Raises ConnectionError if it cannot be fetched: what came stays, and the next call goes on. ValueError if the file
    has another sha256; OSError if the folder cannot be written.
    """
    pooch, folder = needs("pooch", "pooch"), cache_folder()
    check_writable("the cache folder", folder / name)
    pooch.get_logger().setLevel("WARNING")
    fetch = Resuming(folder / f"{name}.part")
    try:
        return kept(pooch, url, sha256, name, folder, fetch)
    except ValueError as error:
        if not fetch.resumed:
            raise ValueError(
                f"{url} is not the file that was meant: {error}"
            ) from error
    # The part may have been another file's: once more, from the start.
    return kept(pooch, url, sha256, name, folder, fetch)


def kept(pooch, url: str, sha256: str, name: str, folder: Path, fetch) -> Path:
    """Where pooch keeps the file, fetched by `fetch` if it is not there; ValueError for another sha256."""
    path = pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=fetch)
    return Path(path)


class Resuming:
    """A downloader for pooch: writes to `part`, asks for what is missing, moves the whole to where pooch wants it."""

    def __init__(self, part: Path):
        self.part, self.resumed = part, False

    def __call__(self, url: str, output_file, pooch, check_only: bool = False) -> None:
        """Fetch url. ConnectionError after TRIES tries."""
        requests = needs("requests", "requests")
        for left in reversed(range(TRIES)):
            try:
                self.go_on(requests, url)
                break
            except requests.RequestException as error:
                refused = getattr(error.response, "status_code", 0) // 100 == 4
                if refused or not left:
                    have = self.have()
                    raise ConnectionError(
                        f"{url} could not be fetched ({error}); {have} bytes are kept in {self.part}: try again"
                    ) from error
                time.sleep(PAUSE)
        shutil.move(self.part, output_file)

    def have(self) -> int:
        """Bytes that came so far."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def go_on(self, requests, url: str) -> None:
        """One try, from where the last one ended. Raises what requests raises, also where the end is missing."""
        start = self.have()
        asked = {"Range": f"bytes={start}-"} if start else {}
        # No compression on the way: the bytes that are counted are those of the file.
        asked["Accept-Encoding"] = "identity"
        with requests.get(url, headers=asked, stream=True, timeout=30) as answer:
            if start and answer.status_code == 416:  # nothing after what is there
                self.resumed = True
                return
            answer.raise_for_status()
            goes_on = answer.status_code == 206
            self.resumed |= goes_on
            expected = int(answer.headers.get("Content-Length", -1))
            written = 0
            with open(self.part, "ab" if goes_on else "wb") as f:
                for chunk in answer.iter_content(CHUNK):
                    written += f.write(chunk)
            if written < expected:
                raise requests.ConnectionError(
                    f"{written} of {expected} bytes came before the connection ended"
                )
