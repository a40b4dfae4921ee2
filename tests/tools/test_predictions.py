"""Bets: asked, clicked, settled, and not spoilt by a cell that runs before the bet."""

import re

import pytest

from course_lib import predictions as P


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What was displayed, in order, in a session where nothing has been asked yet."""
    monkeypatch.setattr(P, "PREDICTIONS", {})
    bundles = []
    monkeypatch.setattr(P, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def ask(name="toy.steps", **kw):
    P.predict(name, "How many?", ["ten", "a hundred", "a thousand"], **kw)


def text(shown):
    return shown[-1]["text/plain"]


def page(shown):
    return shown[-1]["text/html"]


def test_a_question_without_a_bet_says_how_to_bet(shown):
    ask()
    assert text(shown) == (
        'Prediction toy.steps: How many?\n  a) ten\n  b) a hundred\n  c) a thousand\nNo bet yet: set bet="a"'
    )
    assert re.findall("<li>(.*?)</li>", page(shown)) == ["ten", "a hundred", "a thousand"]
    assert '<p class="bet">No bet yet' in page(shown)  # what slides leave out
    assert '<ol type="a" style="list-style-type: lower-alpha">' in page(shown)  # JupyterLab overrules type


def test_a_bet_is_recorded_and_stays_when_the_cell_runs_again(shown):
    ask(bet="b")
    ask()
    assert text(shown).splitlines()[-1] == "Your bet: b"
    ask(bet="c")
    assert text(shown).splitlines()[-1] == "Your bet: c"


@pytest.mark.parametrize("bet", ["d", "B", "", "ab"])
def test_a_bet_is_one_of_the_letters(bet):
    with pytest.raises(ValueError, match=f"the bet on toy.steps must be one of a, b, c, not {bet!r}"):
        ask(bet=bet)


@pytest.mark.parametrize(
    ("bet", "verdict"), [("a", " You bet a: wrong."), ("b", " You bet b: right."), (None, "")]
)
def test_settling_tells_the_answer_and_how_the_bet_went(bet, verdict, shown):
    ask(bet=bet)
    P.settle("toy.steps", "b", "The curve is flat there.")
    said = f"the answer is b) a hundred.{verdict} The curve is flat there."
    assert text(shown) == f"toy.steps: {said}"
    assert f"<p>{said}</p>" in page(shown)


def test_an_answer_is_folded_until_there_is_a_bet(shown):
    ask()
    P.settle("toy.steps", "b", "")
    closed, summary = re.search(r"<details([^>]*)><summary>(.*?)</summary>", page(shown)).groups()
    assert "open" not in closed and "hundred" not in summary
    ask(bet="b")
    P.settle("toy.steps", "b", "")
    assert re.search(r"<details[^>]* open><summary>", page(shown))


def test_what_is_shown_is_text_not_markup(shown):
    P.predict("toy.steps", "is t < 1?", ["a & b", "<i>"])
    P.settle("toy.steps", "b", "1 < 2.")
    assert all("<i>" not in bundle["text/html"] for bundle in shown)
    assert "is t &lt; 1?" in shown[0]["text/html"] and "1 &lt; 2." in page(shown)


def test_only_asked_questions_and_given_choices_can_be_settled():
    with pytest.raises(
        ValueError, match=r"no prediction is called 'toy.steps': run the predictions cell first"
    ):
        P.settle("toy.steps", "a", "")
    ask()
    with pytest.raises(ValueError, match=r"the answer to toy.steps must be one of a, b, c, not 'z'"):
        P.settle("toy.steps", "z", "")


def test_the_score_counts_right_bets_missing_ones_and_open_questions(capsys):
    for name, bet in [("a", "a"), ("b", "b"), ("c", "c"), ("d", None)]:
        ask(name, bet=bet)
    for name in "abc":
        P.settle(name, "a", "")
    P.score()
    assert capsys.readouterr().out == "1 of 4 right, 1 without a bet, 1 not settled yet\n"
    P.settle("d", "c", "")
    P.score()
    assert capsys.readouterr().out == "1 of 4 right, 1 without a bet\n"


def test_in_a_live_notebook_a_click_is_a_bet_even_after_the_answer(monkeypatch, shown):
    """Run All settles every question before anybody could click."""
    monkeypatch.setattr(P, "live", lambda: True)
    P.predict("toy.steps", "t < 1?", ["ten", "a hundred"], bet="a")
    assert set(shown[0]["application/vnd.jupyter.widget-view+json"]) == {
        "version_major", "version_minor", "model_id",
    }  # fmt: skip
    asked = P.PREDICTIONS["toy.steps"]
    assert asked.buttons.options == (("a) ten", "a"), ("b) a hundred", "b")) and asked.buttons.value == "a"
    P.settle("toy.steps", "b", "")
    assert "You bet a: wrong." in text(shown)
    assert not asked.buttons.disabled
    asked.buttons.value = "b"
    P.settle("toy.steps", "b", "")
    assert "You bet b: right." in text(shown)


def test_the_buttons_come_with_their_question():
    asked = P.Prediction({"a": "one", "b": "two"}, None)
    box = P.ask(asked, "toy.steps", "is 1 < 2?")
    assert "is 1 &lt; 2?" in box.children[0].value and box.children[1] is asked.buttons
    assert asked.buttons.description == "Your bet:" and asked.buttons.value is None
    assert asked.buttons.layout.width == "max-content"
