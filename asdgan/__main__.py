"""`asdgan VERB ...`: hands each verb to the module that answers it."""

import sys
from collections.abc import Callable
from importlib import import_module

# Each verb's module, as text so that only the one asked for is loaded, and its meaning.
VERBS = {
    "run": ("asdgan.run", "train, score and judge a detector"),
    "board": ("asdgan.report.board", "list results, best first"),
    "tables": ("asdgan.report.tables", "published tables, ours beside theirs"),
    "data": ("asdgan.data", "fetch, verify and show releases"),
    "judge": (
        "asdgan.results.challenge.judge",
        "anybody's score files to the official numbers of their year",
    ),
    "submission": ("asdgan.deploy.submission", "a result to the challenge's own CSV files"),
    "score": ("asdgan.deploy.score", "a finished run on new recordings"),
}


def main() -> int:
    """Runs the command that the first word names; gives its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: asdgan VERB ...\n")
        for verb, (_, meaning) in VERBS.items():
            print(f"  {verb:10} {meaning} (asdgan {verb} --help)")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"asdgan: {verb}: no such verb; choose from {', '.join(VERBS)}", file=sys.stderr)
        return 2
    command: Callable[[list[str]], int] = import_module(VERBS[verb][0]).main
    return command(rest)


if __name__ == "__main__":
    raise SystemExit(main())
