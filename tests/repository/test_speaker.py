"""A lecture from the speaker window, rehearsed: chapter 7, no network, the arrow key, notes and a clock."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from tools import site_check, slides, slides_index, slides_ready

CHAPTER = "notebooks/07_sedd.ipynb"
MINUTES = 45
PLANNED = r"chapters 1 to 9 plan (\d+) to (\d+) minutes each; chapter 0 is an opening of (\d+), appendix A1 takes (\d+)"
# S opens the window: keep a hold of it, so that it can be read from here.
OPEN = """(() => { const open = window.open; window.open = (...how) => window.speaker = open.apply(window, how);
  Reveal.triggerKey(83); return !!window.speaker; })()"""
NOTES = "window.speaker?.document?.querySelector('.speaker-controls-notes .value')"
READY = f"!!{NOTES} && speaker.document.querySelectorAll('iframe').length === 2"
TOLD = f"{NOTES}.textContent"
HERE = """(() => { const slide = Reveal.getCurrentSlide();
  const shown = e => e && !e.closest('.hidden') ? e.innerText.trim() : '';
  return {
    number: Reveal.getSlides().indexOf(slide) + 1, timing: +slide.dataset.timing,
    title: slide.querySelector('h1, h2, h3, .running')?.textContent ?? '',
    note: slide.querySelector(':scope > aside.notes')?.textContent.trim() ?? '',
    pace: shown(speaker.document.querySelector('.pacing')),
    looks: [...speaker.document.querySelectorAll('iframe')].length,
    twice: speaker.document.querySelectorAll('.speaker-controls-notes mjx-assistive-mml').length,
  }; })()"""


def words(text):
    """Without formulas, which are pictures in the speaker window and marks in the note."""
    return set(re.findall(r"[A-Za-z]{4,}", text))


def test_each_chapter_is_planned_for_45_minutes_and_the_others_for_what_the_page_on_teaching_says():
    plan = {
        p.stem: slides_index.minutes(nbformat.read(p, 4).cells) for p in Path("notebooks").glob("*.ipynb")
    }
    assert plan["07_sedd"] == MINUTES
    chapters = [plan.pop(stem) for stem in sorted(plan) if re.match("0[1-9]_", stem)]
    page = Path("docs/TEACHING.md").read_text(encoding="utf-8")
    low, high, opening, appendix = map(int, re.search(PLANNED, page).groups())
    assert low == 43 and high == MINUTES and all(low <= minutes <= high for minutes in chapters), chapters
    assert plan == {"00_start_here": opening, "A1_side_notes": appendix}


def test_chapter_7_can_be_given_from_the_speaker_window_without_a_network(tmp_path):
    if not slides.browser():
        pytest.skip("needs Chromium: apt install chromium")
    deck = slides.build(CHAPTER, tmp_path, slides.browser_files())
    headings = [slides_ready.heading(cells) for cells in slides.slides_of(slides_ready.as_shown(CHAPTER))]
    core = slides_index.read(CHAPTER, [], headings).slides
    with site_check.listening() as browser:  # it knows no address but this machine's
        browser.size(1280, 720)
        browser.send("Page.navigate", url=deck.as_uri())
        assert browser.until("window.Reveal && Reveal.isReady()")
        assert browser.run("Reveal.getConfig().totalTime") == 60 * MINUTES
        browser.send("Runtime.evaluate", expression=OPEN, userGesture=True)
        assert browser.until(READY)
        seen = []
        while (here := browser.run(HERE))["number"] <= core:
            if not seen or seen[-1]["number"] != here["number"]:  # and not a fragment of the same slide
                seen.append(follow(browser, here))
            browser.run("Reveal.triggerKey(39)")
        complaints = browser.complaints("file://")
    assert [here["number"] for here in seen] == list(range(1, core + 1))
    assert sum(here["timing"] for here in seen) == pytest.approx(60 * MINUTES, abs=core)
    assert all(here["timing"] >= 10 and here["looks"] == 2 and here["pace"] for here in seen)
    assert not any(here["twice"] for here in seen)  # a formula and the copy of it for screen readers
    assert sum(bool(here["note"]) for here in seen) >= core / 3
    assert complaints == []


def follow(browser, here):
    """What the speaker window shows once it has followed: the notes of this slide, every word of them."""
    # Two notes may share a word: only when all of this one's are there has the window followed.
    note = sorted(words(here["note"]))
    assert browser.until(f"{json.dumps(note)}.every(word => {TOLD}.includes(word))", 60), here
    return browser.run(HERE)
