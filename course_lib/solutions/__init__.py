"""One module per chapter: the reference answers, their checks and the classic wrong answers."""
