"""Bets: the reader guesses first, and the chapter computes who was right.

A cell run by "Run All" must not spoil a bet, so an answer that nobody has bet on stays folded.
"""

import html
import string
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from .widgets import live, view


@dataclass
class Prediction:
    """A multiple-choice question, the reader's bet, and the answer once it is computed."""

    choices: dict[str, str]
    bet: str | None
    answer: str | None = None
    buttons: Any = None


PREDICTIONS: dict[str, Prediction] = {}


def predict(
    name: str, question: str, choices: list[str], bet: str | None = None
) -> None:
    """Ask a question and record the bet, a letter; an earlier bet stays unless given anew.

    In a live notebook the bet can be clicked too, at any time.
    """
    options = dict(zip(string.ascii_lowercase, choices, strict=False))
    check_letter(f"bet on {name}", bet, [None, *options])
    earlier = PREDICTIONS.get(name)
    kept = earlier.bet if earlier else None
    asked = PREDICTIONS[name] = Prediction(options, bet or kept)
    bundle = {
        "text/plain": as_text(name, question, asked),
        "text/html": as_html(name, question, asked),
    }
    if live():
        bundle |= view(ask(asked, name, question))
    display(bundle, raw=True)


def as_text(name: str, question: str, asked: Prediction) -> str:
    """The question, its choices and the bet, a line each."""
    lines = [f"Prediction {name}: {question}"]
    lines += [f"  {letter}) {choice}" for letter, choice in asked.choices.items()]
    return "\n".join([*lines, state(asked)])


def as_html(name: str, question: str, asked: Prediction) -> str:
    """The same, marked up such that slides can leave out how to bet."""
    choices = "".join(f"<li>{html.escape(c)}</li>" for c in asked.choices.values())
    return (
        f'<div class="prediction"><p><strong>{html.escape(name)}</strong>: '
        f'{html.escape(question)}</p><ol type="a" style="list-style-type: lower-alpha">{choices}</ol>'
        f'<p class="bet">{html.escape(state(asked))}</p></div>'
    )


def state(asked: Prediction) -> str:
    """What was bet, or how to bet."""
    return f"Your bet: {asked.bet}" if asked.bet else 'No bet yet: set bet="a"'


def ask(asked: Prediction, name: str, question: str) -> Any:
    """The question as buttons; a click records the bet."""
    import ipywidgets

    options = [(f"{a}) {choice}", a) for a, choice in asked.choices.items()]
    asked.buttons = ipywidgets.RadioButtons(
        options=options,
        value=asked.bet,
        description="Your bet:",
        layout={"width": "max-content"},
    )
    asked.buttons.observe(lambda change: setattr(asked, "bet", change["new"]), "value")
    title = f"<strong>{html.escape(name)}</strong>: {html.escape(question)}"
    return ipywidgets.VBox([ipywidgets.HTML(title), asked.buttons])


def settle(name: str, answer: str, because: str) -> None:
    """Show the answer, a letter that the cell has just computed, and whether the bet was right.

    Without a bet the answer stays folded: one click opens it, and betting is still possible.
    """
    if name not in PREDICTIONS:
        raise ValueError(
            f"no prediction is called {name!r}: run the predictions cell first"
        )
    asked = PREDICTIONS[name]
    check_letter(f"answer to {name}", answer, list(asked.choices))
    asked.answer = answer
    said = [f"the answer is {answer}) {asked.choices[answer]}."]
    if asked.bet:
        verdict = "right" if asked.bet == answer else "wrong"
        said.append(f"You bet {asked.bet}: {verdict}.")
    text = " ".join([*said, because]).rstrip()
    display(
        {"text/plain": f"{name}: {text}", "text/html": folded(name, text, asked.bet)},
        raw=True,
    )


def folded(name: str, text: str, bet: str | None) -> str:
    """The answer in a box that is open only where there was a bet."""
    title = "" if bet else " (place your bet above, then click for the answer)"
    return (
        f'<details class="prediction"{" open" * bool(bet)}>'
        f"<summary>Prediction <strong>{html.escape(name)}</strong>{title}</summary>"
        f"<p>{html.escape(text)}</p></details>"
    )


def score() -> None:
    """Print how many of the bets were right."""
    bets = PREDICTIONS.values()
    right = sum(p.answer is not None and p.bet == p.answer for p in bets)
    missing = sum(p.bet is None for p in bets)
    waiting = sum(p.answer is None for p in bets)
    tail = f", {waiting} not settled yet" if waiting else ""
    print(f"{right} of {len(bets)} right, {missing} without a bet{tail}")


def check_letter(what: str, letter: str | None, allowed: list) -> None:
    """Raise ValueError unless the letter is one of the allowed ones."""
    if letter not in allowed:
        letters = ", ".join(a for a in allowed if a)
        raise ValueError(f"the {what} must be one of {letters}, not {letter!r}")
