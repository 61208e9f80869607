"""Rules of a company's own, read as far as that needs no engine: one SQL condition on one line.

An engine tries each rule at the start of a run; what is found here is found when the configuration
is loaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_TOKEN = re.compile(
    r"""(?P<blank>\s+)
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<quoted>`[^`]+`)
    |(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign><=>|<>|!=|<=|>=|==|\|\||[-+*/%=<>(),])""",
    re.VERBOSE,
)
_KEYWORDS = re.compile(
    "and|or|not|in|like|ilike|rlike|regexp|between|is|null|true|false|case|when|then|else|end|as"
    "|div|escape|distinct|from|date|timestamp|interval|years?|months?|days?|hours?"
    "|string|int|bigint|double|decimal|boolean"
)
_QUERIES = re.compile("select|with|over|where|exists")
# Functions whose result is another at another time, for other lines or on another engine.
_REFUSED_FUNCTIONS = {
    "rand|randn|random|uuid|shuffle|now|current_date|current_timestamp|curdate|localtimestamp"
    "|current_user|user|monotonically_increasing_id|input_file_name": (
        "gives another result each time"
    ),
    "sum|count|avg|mean|min|max|first|last|any|every|collect_list|collect_set|stddev|row_number"
    "|rank|lag|lead": "needs more than one line, and a rule sees one",
    "ln|log|log2|log10|log1p|exp|expm1|pow|power|rint|try_divide": "differs between engines",
}


def mistake_in_rule(sql: str, columns: Sequence[str]) -> str | None:
    """What makes a condition unusable, None where nothing is seen: its signs, brackets, columns and
    functions.
    """
    depth, position, words = 0, 0, []
    while position < len(sql):
        token = _TOKEN.match(sql, position)
        if token is None:
            return f"{sql[position:][:20]!r} can't be read; write one condition, texts in '...'"
        position = token.end()
        if token.lastgroup == "sign":
            depth += {"(": 1, ")": -1}.get(token.group(), 0)
            if depth < 0:
                return "a bracket is closed that was not opened"
        elif token.lastgroup in ("word", "quoted"):
            is_call = bool(re.match(r"\s*\(", sql[position:]))
            words.append((token.group().strip("`"), is_call, token.lastgroup == "quoted"))
    if depth:
        return "a bracket is opened and not closed"
    for word, is_call, is_quoted in words:
        if not is_quoted and _KEYWORDS.fullmatch(word.lower()):
            continue
        if not is_quoted and _QUERIES.fullmatch(word.lower()):
            return f"{word}: a rule is one condition on one line, without queries"
        if is_call and not is_quoted:
            for functions, why in _REFUSED_FUNCTIONS.items():
                if re.fullmatch(functions, word.lower()):
                    return f"{word}: {why}"
        elif word.lower() not in columns:
            close = difflib.get_close_matches(word.lower(), columns, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(columns)}"
            return f"no column '{word}'; {hint}"
    if not any(word.lower() in columns for word, is_call, _ in words if not is_call):
        return f"it names no column; there are {', '.join(columns)}"
    return None
