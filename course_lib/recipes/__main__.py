"""python -m course_lib.recipes: see recipes/command.py."""

from .command import main

if __name__ == "__main__":
    main()
