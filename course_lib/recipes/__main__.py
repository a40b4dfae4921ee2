"""python -m course_lib.recipes: see recipes/run.py."""

from .run import main

if __name__ == "__main__":
    main()
