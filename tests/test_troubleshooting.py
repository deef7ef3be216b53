"""What the page of error messages says is true of the code, and nothing that can go wrong in running is missing from it."""

import re
from pathlib import Path

from tests.messages import VALUE, all_texts, messages

PAGE = (Path(__file__).parent.parent / "docs" / "troubleshooting.md").read_text()
NAMED = [row.split("|")[1].strip().strip("`") for row in PAGE.splitlines() if row.startswith("| `")]

OF_ARGUMENTS = ("ValueError", "TypeError", "IndexError", "ArgumentTypeError")
OTHERS = ("unreachable", "nvJPEG's status", "this is a bug in torchdali", "it closed the connection")
"""What cannot happen, and what is raised anew in other words."""
OF_TORCH = ("prefetch_factor must be", "_SingleProcessDataLoaderIter requires", "attribute should not be set")
"""Words of torch's DataLoader, which programs know."""
OF_COMMANDS = ("bench/", "cli/")


def occurs(named: str, text: str) -> bool:
    """Whether the parts of a message stand in a text of the source, in their order."""
    place = 0
    for part in named.split(VALUE):
        place = text.find(part.strip(), place)
        if place < 0:
            return False
        place += len(part.strip())
    return True


def test_every_message_of_the_page_is_in_the_code():
    texts = all_texts()
    assert len(NAMED) > 80
    assert [named for named in NAMED if not any(occurs(named, text) for text in texts)] == []


def test_every_error_that_is_not_of_an_argument_is_on_the_page():
    missing = [
        message
        for message in messages()
        if message.kind not in OF_ARGUMENTS
        and not message.place.startswith(OF_COMMANDS)
        and not any(words in message.text for words in (*OTHERS, *OF_TORCH))
        and not any(occurs(named, message.text) for named in NAMED)
    ]
    assert missing == []


def test_every_error_of_an_argument_says_more_than_that_it_is_wrong():
    short = [
        message
        for message in messages()
        if message.kind in OF_ARGUMENTS
        and not re.search(r"[;:.,] \S|, but ", message.text)
        and not any(words in message.text for words in OF_TORCH)
    ]
    assert short == []
