"""Named full runs, by system; `run` has what they share and the command line: python -m course_lib.recipes."""
