"""One file for each step, named NUMBER_what.py."""
