"""Build tools of the course: environment, checks, notebooks and slides. Nothing in the library imports them."""
