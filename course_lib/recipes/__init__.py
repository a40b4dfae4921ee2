"""Named full runs, by system: `run` has what they share, `command` the command line (python -m course_lib.recipes)."""
