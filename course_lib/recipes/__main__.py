"""python -m course_lib.recipes: see the package's docstring."""

from . import main

if __name__ == "__main__":
    main()
