"""Mutants of which no recipe is left: bombs, circles of files, texts without end, files that are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hostile_text import bomb, nested
from recipe_drafts import Draft


def _text_instead(draft: Draft) -> None:
    """A file with something else in it."""
    texts = {
        "nothing": b"",
        "comments": b"# nothing\n\n# more\n",
        "a mark": b"---\n",
        "an end": b"---\n...\n",
        "null": b"null\n",
        "text": b"name\n",
        "a list": b"- name: x\n- stages: {}\n",
        "a number": b"3\n",
        "JSON": b'{"name": "x", "stages": {"one": {"use": "nothing"}}}',
        "spaces": b" " * 1_000_000,
        "newlines": b"\n" * 1_000_000,
        "a directive": b"%YAML 9.9\n---\nname: x\n",
        "tags renamed": b"%TAG ! tag:yaml.org,2002:python/\n---\nname: !name:os.system x\nstages: {}\n",
        "code": b"import os\nos.system('touch hostile')\n",
        "an image": bytes(range(256)) * 40,
        "a bomb": bomb(40, 9).encode(),
        "brackets": nested(100_000, "flow lists").encode(),
        "dashes": nested(100_000, "block lists").encode(),
        "questions": nested(100_000, "keys").encode(),
        "braces": nested(100_000, "flow mappings").encode(),
        "steps": "".join(f"{' ' * depth}a:\n" for depth in range(900)).encode(),
        "colons": b"a:" * 500_000,
        "quotes": b"'" * 1_000_001,
        "anchors": b"".join(b"- &a%d x\n" % number for number in range(100_000)),
        "keys": b"".join(b"k%d: 1\n" % number for number in range(100_000)),
        "the same key": b"k: 1\n" * 100_000,
        "stages": b"name: x\nlauncher: {use: direct}\nstages:\n" + b"".join(b"  s%d: {use: count, to: 1}\n" % n for n in range(20_000)),
        "a chain": b"name: x\nlauncher: {use: direct}\nstages:\n  s0: {use: count, to: 1}\n"
        + b"".join(b"  s%d: {use: count, to: 1, from: s%d}\n" % (n, n - 1) for n in range(1, 5000)),
        "a long key": b"x" * 2000 + b": 1\n",
        "a long quoted key": b'? "' + b"x" * 10_000_000 + b'"\n: 1\n',
        "a long value": b"name: " + b"x" * 10_000_000 + b"\nstages: {one: {use: count, to: 1}}\n",
        "a long use": b"name: x\nstages: {one: {use: " + b"x" * 10_000_000 + b"}}\n",
        "a long number": b"name: x\nstages: {one: {use: count, to: " + b"1" * 10_000_000 + b"}}\n",
        "a long tag": b"name: !" + b"x" * 10_000_000 + b" y\n",
        "a long anchor": b"name: &" + b"x" * 10_000_000 + b" y\n",
        "a long comment": b"#" + b"x" * 15_000_000 + b"\nname: x\n",
        "too large": b"#" + b"x" * 17_000_000,
    }  # fmt: skip
    kind = draft.random.choice(list(texts))
    draft.files[draft.base.main] = texts[kind]
    draft.refused, draft.why = True, f"{kind} instead of a recipe"


def _extends(draft: Draft) -> None:
    """What ``extends:`` may lead to: circles, bombs, chains, devices."""
    main = draft.base.main
    kind = draft.random.choice(("itself", "a circle", "a bomb", "a chain", "a list", "deeper", "nothing", "odd things"))
    files: dict[str, bytes] = {}
    if kind == "itself":
        files[main] = draft.random.choice(("extends: {}\n", "name: x\nstages: {{extends: {}}}\n")).format(main).encode()
    elif kind == "a circle":
        files = {f"c{n}.yaml": b"extends: c%d.yaml\n" % ((n + 1) % 5) for n in range(5)}
        files[main] = b"extends: [c3.yaml, c1.yaml]\n"
    elif kind == "a bomb":
        files = {
            f"b{n}.yaml": b"".join(b"k%d: {extends: b%d.yaml}\n" % (k, n + 1) for k in range(10)) for n in range(12)
        }
        files |= {"b12.yaml": b"x: 1\n", main: b"extends: b0.yaml\n"}
    elif kind == "a chain":
        files = {f"n{n}.yaml": b"extends: n%d.yaml\n" % (n + 1) for n in range(1500)}
        files |= {"n1500.yaml": b"x: 1\n", main: b"extends: n0.yaml\n"}
    elif kind == "a list":
        files = {"l.yaml": b"x: 1\n", main: b"extends: [" + b", ".join([b"l.yaml"] * 20_000) + b"]\n"}
    elif kind == "deeper":
        inner = "{a: " * 50 + "{extends: d%d.yaml}" + "}" * 50
        files = {f"d{n}.yaml": (inner % (n + 1)).encode() for n in range(40)}
        files |= {"d40.yaml": b"x: 1\n", main: b"extends: d0.yaml\n"}
    elif kind == "nothing":
        files[main] = (
            b"extends: "
            + draft.random.choice((b"''", b"3", b"[]", b"{}", b"[[]]", b"no.yaml", b"true", b"['']"))
            + b"\n"
        )
    else:
        odd = (
            "pipe",
            "loop",
            "loop-a",
            "folder.yaml",
            ".",
            "/dev/zero",
            "/dev/stdin",
            "/proc/kcore",
            "unreadable",
            "socket",
            "/proc/self/mem",
        )
        files[main] = f"extends: {draft.random.choice(odd)}\n".encode()
    draft.files |= files
    draft.refused, draft.why = True, f"extends {kind}: {files[main][:80]!r}"


WHOLE: Mapping[str, Callable[[Draft], None]] = {"no recipe": _text_instead, "extends": _extends}
