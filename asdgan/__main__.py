"""`asdgan WORD ...`: hands each word to its module."""

import sys
from collections.abc import Callable
from importlib import import_module

WORDS = {
    "run": "train, score and judge a detector",
    "board": "list results, best first",
    "tables": "published tables, ours beside theirs",
    "data": "fetch, verify and show releases",
    "judge": "anybody's score files to the official numbers of their year",
    "submission": "a result to the challenge's own CSV files",
    "score": "a finished run on new recordings",
}


def main() -> int:
    """Runs the command that the first word names; gives its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: asdgan WORD ...\n")
        for word, meaning in WORDS.items():
            print(f"  {word:10} {meaning} (asdgan {word} --help)")
        return 0
    word, *rest = arguments
    if word not in WORDS:
        print(f"asdgan: {word}: no such word; there are {', '.join(WORDS)}", file=sys.stderr)
        return 2
    command: Callable[[list[str]], int] = import_module(f"asdgan.{word}").main
    return command(rest)


if __name__ == "__main__":
    raise SystemExit(main())
