"""Refused: the base of every error that a person, not a repeat, has to mend."""


class Refused(Exception):
    """Something was not done, and nothing was half-done; the message says what, where and what to do."""
