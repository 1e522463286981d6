"""What a child says went wrong: a class and one line, capped and plain; to be quoted, never to be followed."""

MOST_CHARACTERS = 300
MOST_OF_NAME = 60


def first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its text; the class alone where the text is an error too."""
    name = type(error).__name__[:MOST_OF_NAME]
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a candidate's own error class can raise whatever it likes.
        return name
    return f"{name}: {text}".strip().split("\n", 1)[0]


def plain(text: object) -> str:
    """Return untrusted text as one short line of printable characters."""
    line = str(text).strip().splitlines()[:1]
    kept = "".join(letter if letter.isprintable() else "?" for letter in (line[0] if line else ""))
    return kept if len(kept) <= MOST_CHARACTERS else kept[: MOST_CHARACTERS - 3] + "..."
