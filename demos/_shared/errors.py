"""The one error a demo shows as a line instead of a traceback."""


class DemoError(Exception):
    """Something the person at the keyboard can put right: the message says what, in one line."""
