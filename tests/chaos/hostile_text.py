"""Keys, values, names and paths that no well-meaning recipe has: the raw material of ``recipe_mutants``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

LOOKALIKES = {
    "a": "\u0430", "c": "\u0441", "e": "\u0435", "i": "\u0456", "o": "\u043e", "p": "\u0440", "s": "\u0455",
    "x": "\u0445", "d": "\uff44", "m": "\uff4d", "t": "\uff54", "r": "\uff52", "n": "\uff4e", "l": "\uff4c", "u": "\u03c5",
}  # fmt: skip
"""Letters that look like ASCII ones in most fonts: Cyrillic, Greek, fullwidth."""

INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e")
DIRECTIONS = ("\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069")
CONTROLS = ("\x00", "\x07", "\x08", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\n", "\r", "\t")
EMOJI = ("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f")


def _typo(random: Random, key: str) -> str:
    at = random.randrange(len(key))
    return random.choice(
        (key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + "z" + key[at + 1 :], key + "s", key + "_")
    )


def _insert(random: Random, key: str, what: str) -> str:
    at = random.randrange(len(key) + 1)
    return key[:at] + what + key[at:]


def _lookalike(random: Random, key: str) -> str:
    at = [index for index, letter in enumerate(key) if letter in LOOKALIKES]
    if not at:
        return key + "\u0430"
    index = random.choice(at)
    return key[:index] + LOOKALIKES[key[index]] + key[index + 1 :]


KEY_TWISTS: Mapping[str, Callable[[Random, str], str]] = {
    "typo": _typo,
    "case": lambda random, key: key.swapcase() if key.swapcase() != key else key + "X",
    "look-alike": _lookalike,
    "invisible": lambda random, key: _insert(random, key, random.choice(INVISIBLE)),
    "direction": lambda random, key: _insert(random, key, random.choice(DIRECTIONS)),
    "control": lambda random, key: _insert(random, key, random.choice(CONTROLS)),
    "emoji": lambda random, key: _insert(random, key, random.choice(EMOJI)),
    "combining": lambda random, key: _insert(random, key, "e\u0301"),
    "space": lambda random, key: random.choice((f" {key}", f"{key} ", f"{key}\u00a0", f"{key[:1]} {key[1:]}")),
    "no key": lambda random, key: random.choice(("", " ", "null", "~", "true", "1", "1.0", "=", "-", "?", ".", "..")),
    "long": lambda random, key: key * random.choice((60, 2000)),
}
"""What may become of a key. None of them is a key of an option again."""

RAW_VALUES = (
    *("null", "~", "''", '""', "true", "True", "yes", "on", "NO", "y"),
    *("0", "1", "-1", "-0", "-0.0", "+1", "3.0", "0.5", "1e400", "-1e400", "1e-400", ".inf", "-.inf", ".nan", "NaN"),
    *(
        "1e308",
        "-1e308",
        "5e-324",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e18",
        "1e19",
    ),
    *(str(10**400), "1" * 5000, "1" * 60_000 + "x", "0" * 60_000 + ".", "1_" * 30_000 + "_", "-" + "9" * 4301),
    *(
        "0x10",
        "0o17",
        "017",
        "00",
        "0b11",
        "1__0",
        "1_",
        "_1",
        "1._5",
        "1_.5",
        "1_e5",
        "1e_5",
        "1_000",
        "1,000",
        "1.000,5",
    ),
    *("2025-07-08", "2025-07-08T12:00:00Z", "12:30", "1:30:45", "1 000", "١٢٣", "１２", "½", "−5", "5%", "1k", "$5"),
    *("'1'", '"1e-6"', "'true'", "'null'", "text", "[]", "{}", "[[]]", "[null]", "[[[]]]", "{a: 1}", "[1, a, null]"),
    *(
        "{use: null}",
        "{use: 3}",
        "{use: [adamw]}",
        "{use: {use: adamw}}",
        "{use: nothing}",
        "{use: ''}",
        "{Use: adamw}",
    ),
    *("{extends: null}", "{extends: {a: 1}}", "{extends: 3}", "{extends: []}", "{extends: ''}", "{extends: [null]}"),
    *(
        '"\\0"',
        '"\\x1b[2J\\x1b[31mgone"',
        '"\\u202egnirts"',
        '"\\x9b31m"',
        '"\\u200b"',
        '"a\\nb\\nc"',
        '"\\ud800"',
        '"\\ufeff"',
    ),
    *("|", ">-", "? a", "- a", "a: b: c", "*unknown", "&anchor 1", "&a [*a]", "!!int 3", "!!str 3", "!!set {a}", "! x"),
    *("!!python/object/apply:os.system [touch /tmp/hostile]", "!!python/name:os.system", "!include /etc/passwd"),
    *("!<tag:yaml.org,2002:python/object/new:os.system> x", "!!binary aGk=", "!!timestamp 2025-07-08", "!env HOME"),
    *("@at", "`tick`", "%percent", '"unterminated', "'unterminated", "[1, 2", "{a: 1", "]", "}", "\t1", "1 # 2", "#"),
    *("${HOME}", "$(touch /tmp/hostile)", "{{ 7 * 7 }}", "%s%s%s%n", "'; rm -rf /'", "</think>", "<|im_end|>"),
    *(
        "(a+)+$",
        "'(' ",
        "'[a'",
        "'(?i)x'",
        "'a{99999999999}'",
        f"'{'(' * 3000}{')' * 3000}'",
        "'(?P<a>x)(?P<a>y)'",
        "'*'",
    ),
    *("x" * 300, "x" * 70_000, "'" + "x\u0301" * 500 + "'", "\U0001f600" * 50, "a b " * 5000, "'" + "\\n" * 3000 + "'"),
    *(
        "tokenizer",
        "tokens",
        "pretrain-1",
        "one",
        "two",
        "sft@0.5",
        "@",
        "a@b@c",
        "org/name",
        "org/name@main",
        "./base",
    ),
)
"""What may stand where a value stood, as it is written."""

PATHS = (
    *(
        "..",
        ".",
        "/",
        "../../../../etc/passwd",
        "/etc/passwd",
        "/etc/shadow",
        "~",
        "~nobody-of-that-name/x",
        "~/x",
        "~root",
    ),
    *(
        "$HOME",
        "$HOME/x",
        "%APPDATA%",
        "file:///etc/passwd",
        "https://example.invalid/x",
        "\\\\server\\share",
        "C:\\data",
        "-",
    ),
    *("/dev/zero", "/dev/stdin", "/dev/null", "/dev/random", "/dev/tty", "/dev/full", "/dev/fd/0", "/proc/self/fd/0"),
    *("/proc/self/mem", "/proc/kcore", "/proc/kmsg", "/proc/self/environ", "/proc", "/sys", "/dev", "/proc/self/root"),
    *(
        "pipe",
        "loop",
        "loop-a",
        "./loop-a/x",
        "here",
        "here/here/here",
        "socket",
        "folder.yaml",
        "unreadable",
        "missing",
    ),
    *("a" * 300, "a/" * 3000, "./" + "a" * 300, "x" * 20_000, "/" * 5000, "a/../" * 900 + "b"),
    *(
        "nul\0byte",
        "new\nline",
        "\x1b[31m",
        "\u202etxt.exe",
        "trailing ",
        " leading",
        "",
        " ",
        "\udcff",
        "emoji\U0001f600",
    ),
    *(
        "*",
        "**",
        "/**/*",
        "/**/*.nothing",
        "**/**/**/*",
        "[",
        "[a-",
        "/*/*/*/*/*",
        "/proc/**/*",
        "../**",
        "?" * 200,
        "pipe*",
    ),
)
"""Where a path may lead. ``recipe_mutants`` makes ``pipe``, ``loop`` and their like in the mutant's folder."""

NAMES = (
    *(
        "..",
        ".",
        "../outside",
        "/tmp/outside",
        "a/b",
        "a\\b",
        "../../outside/../x",
        "~",
        "~/x",
        "$HOME",
        "-rf",
        "--help",
    ),
    *(
        "nul\0byte",
        "new\nline",
        "tab\t",
        "\x1b[31mred",
        "\u202ename",
        "zero\u200bwidth",
        "a b",
        " a",
        "a ",
        "",
        " ",
        ".",
    ),
    *("n" * 255, "n" * 300, "n" * 5000, "con", "NUL", "aux.yaml", "COM1", "lost+found", ".git", ".hidden", ".lock"),
    *(
        "a.partial",
        "a.lock",
        "manifest.json",
        "measures.json",
        "stage.json",
        "a-0123456789ab",
        "a-0123456789ab.partial",
    ),
    *(
        "\u00e9",
        "e\u0301",
        "\ufb01",
        "fi",
        "\u212b",
        "\u00c5",
        "\u0440\u0430\u0443",
        "K",
        "\u212a",
        "\u0130",
        "i\u0307",
        "\u00df",
        "ss",
    ),
    *(
        "a:b",
        "a|b",
        "a*b",
        "a?b",
        'a"b',
        "a<b>",
        "a&b",
        "a;b",
        "a`b`",
        "$(id)",
        "%2e%2e",
        "a@b",
        "a@0.5",
        "#",
        "null",
        "1",
        "1e3",
    ),
    *(
        "one",
        "ONE",
        "One",
        "two",
        "TWO",
        "true",
        "extends",
        "use",
        "from",
        "\U0001f600",
        "名前",
        "\u0661",
        "_a",
        "-",
        "_",
        "a..b",
    ),
)
"""What a recipe or a stage may be called; each becomes the name of a folder, if it is allowed to."""


def nested(depth: int, style: str) -> str:
    """A value that is nested so deep, in one line."""
    if style == "flow mappings":
        return "{a: " * depth + "1" + "}" * depth
    if style == "block lists":
        return "- " * depth + "1"
    if style == "keys":
        return "? " * depth + "1"
    return "[" * depth + "]" * depth


def bomb(levels: int, width: int) -> str:
    """Anchors and aliases that grow to width ** levels values: a billion laughs."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"
