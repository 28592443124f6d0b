"""What a setting may be, as a line of YAML: `whole >= 1`, `layer | batch`, `0 <= number < 1`.

A rule is one or more alternatives with ` | ` between them, each of them

- a word, which stands for itself: `layer`, `auto`, and as in YAML `true`, `false`, `null`;
- `whole` (a whole number), `even` (an even one) or `number` (any finite one), with its bounds:
  `whole >= 1`, `0 <= number < 1`; a unit may follow: `number of degrees`;
- `name`: a word that is judged by the code which looks for it;
- `list of RULE`: one value or more, each by the rule that the rest of the line is; `list of them`:
  each by the alternatives in front of it;
- `[NAMES] of RULE`: as many values as names, each by the rule that the rest of the line is.

What is said of a value that breaks a rule is derived from it. Where rules stand, and which hold
for a run, `settings.rules_of` knows.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from asdgan.errors import BadInput

NOUNS = {"whole": "a whole number", "even": "an even whole number", "number": "a number"}
BOUNDS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TURNED = {"<": ">", "<=": ">="}  # of a bound in front: 0 < number
YAMLS = {"true": True, "false": False, "null": None}  # words that YAML does not read as text
TAKEN = {*NOUNS, "name", "list", "of", "them"}

_LIMIT = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"(?:({_LIMIT}) (<=?) )?({'|'.join(NOUNS)})( of [a-z]+)?(?: ([<>]=?) ({_LIMIT}))?"
)
_WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
_LIST = re.compile(r"list of (.+)")
_ROW = re.compile(r"\[(\w+(?:, \w+)*)\] of (.+)")
_SAID: dict[tuple[str, ...], str] = {  # by the signs of its bounds
    (): "",
    (">",): " above {0}",
    (">=",): " of at least {0}",
    ("<",): " below {0}",
    ("<=",): " of at most {0}",
    (">=", "<="): " from {0} to {1}",
    (">=", "<"): " from {0} to {1}, {1} itself excluded",
    (">", "<="): " above {0}, {1} at most",
    (">", "<"): " between {0} and {1}",
}


@dataclass(frozen=True)
class Rule:
    """What a setting may be.

    Attributes:
        sentence: In words: `a whole number of at least 1`.
        several: Several such values in words: `whole numbers of at least 1`.
        holds: Whether a value keeps it.
    """

    sentence: str
    several: str
    holds: Callable[[Any], bool]


@lru_cache(maxsize=4096)
def parsed(text: str) -> Rule:
    """The rule that a line states; a line is parsed once in a process.

    Raises:
        BadInput: It states none.
    """
    found: list[Rule] = []
    left = text
    while True:
        if listed := _LIST.fullmatch(left):
            return _either([*found, _list(listed[1], found)])
        if row := _ROW.fullmatch(left):
            return _either([*found, _row(row[1].split(", "), parsed(row[2]))])
        first, bar, left = left.partition(" | ")
        found.append(_one(first))
        if not bar:
            return _either(found)


def stated(lines: Mapping[str, Any], place: str) -> dict[str, Rule]:
    """The rule of each setting.

    Args:
        lines: By the setting's key.
        place: Where they stand.

    Raises:
        BadInput: One that is none, with its key and place.
    """
    found = {}
    for key, line in lines.items():
        try:
            if not isinstance(line, str):  # `true` alone: a value, where words are meant
                raise BadInput(f"{line!r} is a value, not a rule of what values may be")
            found[key] = parsed(line)
        except BadInput as error:
            raise BadInput(f"{place}: the rule of {key}: {error}") from None
    return found


def _one(text: str) -> Rule:
    """An alternative that is no list."""
    if text == "name":
        return Rule(
            "a name", "names", lambda v: isinstance(v, str) and _WORD.fullmatch(v) is not None
        )
    if _WORD.fullmatch(text) and text not in TAKEN:
        meant = YAMLS.get(text, text)
        return Rule(text, text, lambda v: type(v) is type(meant) and v == meant)
    found = _RANGE.fullmatch(text)
    low, under, kind, unit, over, high = found.groups() if found else (None,) * 6
    bounds = [(TURNED[under], low)] if under and low else []
    bounds += [(over, high)] if over and high else []
    said = _SAID.get(tuple(sign for sign, _ in bounds))
    if kind is None or said is None or (low and high and float(low) >= float(high)):
        raise BadInput(
            f"{text!r} is no rule; write one as 'whole >= 1', '0 <= number < 1', 'layer | batch', "
            "'null | even >= 2' or 'list of number > 0'"
        )
    ending = (unit or "") + said.format(*(limit for _, limit in bounds))
    limits = [(BOUNDS[sign], float(limit)) for sign, limit in bounds]

    def holds(value: Any) -> bool:  # noqa: ANN401 - any config value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and (kind != "number" or not math.isfinite(value)):
            return False
        if kind == "even" and value % 2:
            return False
        return all(keeps(value, limit) for keeps, limit in limits)

    noun = NOUNS[kind]
    return Rule(f"{noun}{ending}", f"{noun.partition(' ')[2]}s{ending}", holds)


def _list(text: str, before: Sequence[Rule]) -> Rule:
    """A list of what a line says, or of `them`, the alternatives before it."""
    each = _either(before) if text == "them" and before else parsed(text)
    said = f"a list of {text if text == 'them' else each.several}"
    return Rule(said, said, lambda v: isinstance(v, list) and v != [] and all(map(each.holds, v)))


def _row(names: Sequence[str], each: Rule) -> Rule:
    """A list of as many values as names."""
    said = f"[{', '.join(names)}], {each.several}"

    def holds(value: Any) -> bool:  # noqa: ANN401 - any config value
        return isinstance(value, list) and len(value) == len(names) and all(map(each.holds, value))

    return Rule(said, said, holds)


def _either(rules: Sequence[Rule]) -> Rule:
    """What keeps one of several rules."""
    if len(rules) == 1:
        return rules[0]

    def joined(words: Sequence[str]) -> str:
        return f"{', '.join(words[:-1])} or {words[-1]}"

    return Rule(
        joined([rule.sentence for rule in rules]),
        joined([rule.several for rule in rules]),
        lambda value: any(rule.holds(value) for rule in rules),
    )
