"""The site in Chromium, network cut: no console error, no request that leaves the folder, formulas typeset, search.

Chromium is spoken to over its DevTools socket; axe-core, where `npm pack` can bring it, looks for what readers who
use a keyboard or a screen reader would miss. Links are followed without a browser: see `dead_links`.
"""

import concurrent.futures
import contextlib
import functools
import http.server
import json
import os
import queue
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import websocket

from tools import slides

AXE = "axe-core@4.10.3"
SERIOUS = ("serious", "critical")
TABS = min(2, os.cpu_count() or 1)  # browsers side by side
PHONE, DESK = (390, 844), (1280, 800)
PATIENCE = 300  # seconds for a page; a busy machine needs many
SET = "(window.MathJax ? MathJax.startup.promise : Promise.resolve())"
READY = "document.readyState === 'complete' && (!window.MathJax || !!(MathJax.startup && MathJax.startup.promise))"
STATE = f"""{SET}.then(() => ({{
  raw: [...document.querySelectorAll('.bd-article p, .bd-article li, .bd-article td, .math')]
    .map(e => e.cloneNode(true))
    .map(e => (e.querySelectorAll('code, pre, mjx-container').forEach(c => c.remove()), e.textContent))
    .filter(text => /\\\\\\(|\\\\\\[|\\$[^$]*\\\\[a-z]/.test(text)).map(text => text.trim().slice(0, 60)),
  errors: [...new Set([...document.querySelectorAll('[data-mjx-error]')].map(e => e.dataset.mjxError))],
  silent: [...document.querySelectorAll('.bd-article img')].filter(i => !i.alt.trim()).length,
  broken: [...document.images].filter(i => i.complete && !i.naturalWidth && i.loading !== 'lazy').map(i => i.src),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}}))"""
# axe looks at every element. Of a formula it needs that something is there, of highlighted code one word of each kind.
FEWER = """(() => {
  for (const formula of document.querySelectorAll('mjx-container')) formula.replaceWith('formula');
  const seen = new Set();
  for (const word of document.querySelectorAll('.highlight pre span:not(:has(span))'))
    if (seen.has(word.className)) word.remove(); else seen.add(word.className);
})()"""
FAULTS = """axe.run(document, OPTIONS).then(found => found.violations.map(
  fault => [fault.id, fault.impact, fault.nodes.length, fault.nodes[0].html]))"""


class Tab:
    """One tab of a headless Chromium: commands, and what it reported since the last page."""

    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []

    def send(self, method: str, **given):
        """The answer to a command; events that come before it are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": given}))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("id") == self.number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return said["result"]
            self.events.append(said)

    def run(self, script: str):
        """The value of a script, awaited. RuntimeError if it throws."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(
                found["exceptionDetails"].get("exception", {}).get("description", "a script threw")
            )
        return found["result"].get("value")

    def size(self, width: int, height: int) -> None:
        """The window from now on, in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str, seconds: float = PATIENCE) -> bool:
        """Go to a page and wait until it and its formulas are there; whether they came."""
        self.events.clear()
        self.send("Page.navigate", url="about:blank")  # so that READY is not said of the page before
        self.send("Page.navigate", url=url)
        return self.until(f"location.href !== 'about:blank' && {READY}", seconds)

    def until(self, condition: str, seconds: float = PATIENCE) -> bool:
        """Wait for a condition; whether it came true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):  # between two pages there is nothing to ask
                if self.run(condition):
                    return True
            time.sleep(0.1)
        return False

    def complaints(self, base: str) -> list[str]:
        """Console errors, exceptions and requests to elsewhere since the page was opened."""
        found = []
        for event in self.events:
            about = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append("threw " + str(about["exceptionDetails"].get("text", ""))[:100])
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] == "error":
                found.append("logged " + str([a.get("value") for a in about["args"]])[:100])
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
                found.append("logged " + about["entry"]["text"][:100])
            elif event["method"] == "Network.requestWillBeSent":
                url = about["request"]["url"]
                found += [f"requested {url[:100]}"] * (not url.startswith((base, "data:", "blob:")))
        return list(dict.fromkeys(found))


@contextlib.contextmanager
def tab():
    """A tab of a Chromium that knows this machine only."""
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            slides.browser(),
            "--headless",
            *root,
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-port=0",
        ]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
        command += ["--disable-background-networking", "--remote-allow-origins=*", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            try:
                with contextlib.closing(connected(Path(profile) / "DevToolsActivePort")) as socket:
                    yield Tab(socket)
            finally:
                child.terminate()


def connected(file: Path, seconds: float = PATIENCE):
    """A socket to the first tab, once Chromium has said where it listens."""
    end = time.monotonic() + seconds
    while not file.is_file() or len(file.read_text(encoding="utf-8").splitlines()) < 2:
        if time.monotonic() > end:
            raise RuntimeError("Chromium did not start")
        time.sleep(0.1)
    port = file.read_text(encoding="utf-8").splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as said:
        tabs = [t for t in json.load(said) if t["type"] == "page"]
    return websocket.create_connection(tabs[0]["webSocketDebuggerUrl"], timeout=900)  # axe on a busy machine


@contextlib.contextmanager
def served(folder: Path):
    """The address at which a folder is served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def axe() -> str | None:
    """The text of axe-core, packed once by npm into the cache; None where npm cannot bring it."""
    kept = slides.cache_folder() / f"{AXE.replace('@', '-')}.min.js"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                command = ["npm", "pack", "--silent", AXE, "--pack-destination", folder]
                subprocess.run(command, check=True, capture_output=True, timeout=300)
            except (OSError, subprocess.SubprocessError):
                return None
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as packed:
                text = packed.extractfile("package/axe.min.js").read()
        kept.write_bytes(text)
    return kept.read_text(encoding="utf-8")


def check(html: Path, words: str = "leave-one-out") -> list[str]:
    """What is wrong with the site in html. Without a browser it is said that no page was looked at."""
    found = dead_links(html)
    if not slides.browser():
        print("no Chromium on PATH: the site was not looked at; apt install chromium", flush=True)
        return found
    script = axe()
    if script is None:
        print(f"npm brought no {AXE}: accessibility was not looked at", flush=True)
    names = (p.name for p in html.glob("*.html") if p.name not in ("search.html", "genindex.html"))
    pages = queue.SimpleQueue()
    for page in sorted(names, key=lambda name: -(html / name).stat().st_size):  # the long ones first
        pages.put(page)
    with served(html) as base, concurrent.futures.ThreadPoolExecutor(TABS + 1) as pool:
        work = [
            pool.submit(search, base, words),
            *(pool.submit(walk, base, pages, script) for _ in range(TABS)),
        ]
        seen = [what for part in work for what in part.result()]
    return found + sorted(seen)


def walk(base: str, pages: queue.SimpleQueue, script: str | None) -> list[str]:
    """What is wrong with the pages that one browser takes from the queue."""
    found = []
    with listening() as browser, contextlib.suppress(queue.Empty):
        while page := pages.get_nowait():
            found += [f"{page}: {what}" for what in look(browser, base, page, script)]
    return found


def search(base: str, words: str) -> list[str]:
    """Whether the search finds the words."""
    with listening() as browser:
        browser.open(f"{base}search.html?q={words}")
        there = browser.until("document.querySelectorAll('#search-results li').length > 0")
        found = [f"search.html: finds nothing for {words!r}"] * (not there)
        return found + [f"search.html: {what}" for what in browser.complaints(base)]


@contextlib.contextmanager
def listening():
    """A tab that reports what goes wrong and what is asked for."""
    with tab() as browser:
        for domain in ("Page", "Runtime", "Network", "Log"):
            browser.send(f"{domain}.enable")
        yield browser


def look(browser: Tab, base: str, page: str, script: str | None) -> list[str]:
    """What is wrong with one page: on a phone and on a desk, in the light and in the dark."""
    browser.size(*PHONE)
    if not browser.open(base + page):
        return [f"is not there after {PATIENCE} seconds"]
    seen, found = browser.run(STATE), []
    found += [f"is {seen['wide']} px wider than a phone"] * (seen["wide"] > 1)
    found += [f"shows raw maths: {text!r}" for text in seen["raw"][:3]]
    found += [f"has a formula that MathJax cannot read: {error}" for error in seen["errors"]]
    found += [f"has {seen['silent']} pictures without words"] * bool(seen["silent"])
    found += [f"does not find {name}" for name in seen["broken"]]
    found += browser.complaints(base)
    browser.size(*DESK)
    return found + (faults(browser, script) if script else [])


def faults(browser: Tab, script: str) -> list[str]:
    """What axe-core holds to be serious on the page that is open: by all rules, then the colours in the dark."""
    found = []
    browser.run(script + ";0")
    browser.run(FEWER)
    for theme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        browser.run(f"document.documentElement.dataset.theme = '{theme}'")
        asked = json.dumps({**options, "resultTypes": ["violations"]})
        found += [
            f"in the {theme}: {name} ({impact}) at {n} places, first {' '.join(first.split())[:90]}"
            for name, impact, n, first in browser.run(FAULTS.replace("OPTIONS", asked))
            if impact in SERIOUS
        ]
    return found


# links


class _Ends(HTMLParser):
    """Where a page's links lead, and the places on it that links can name."""

    def __init__(self):
        super().__init__()
        self.targets, self.places = [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def dead_links(html: Path) -> list[str]:
    """The links within the site that lead nowhere, from its pages and its decks."""
    html, ends, found = html.resolve(), {}, []
    for page in sorted([*html.glob("*.html"), *html.glob("slides/*.html")]):
        ends[page] = _Ends()
        ends[page].feed(page.read_text(encoding="utf-8"))
    for page, end in ends.items():
        for target in dict.fromkeys(end.targets):
            address = urllib.parse.urlsplit(as_opened(target) if page.parent != html else target)
            if address.scheme or address.netloc:
                continue
            file = (page.parent / urllib.parse.unquote(address.path)).resolve() if address.path else page
            place = urllib.parse.unquote(address.fragment)
            if not file.exists():
                found.append(f"{page.relative_to(html)}: nothing lies at {target}")
            elif place and file in ends and place not in ends[file].places and not place.startswith("/"):
                found.append(f"{page.relative_to(html)}: no such place: {target}")
    return found


def as_opened(target: str) -> str:
    """A link of a deck as the deck makes it: one to a notebook leads to its deck, one into the repository nowhere."""
    if target.startswith("data:"):
        return "#/"
    file = target.split("#")[0]
    if file.endswith(".ipynb"):
        return file.split("/")[-1].removesuffix("ipynb") + "html"
    return target if file.endswith((".html", ".pdf")) or ":" in file else "#/"
