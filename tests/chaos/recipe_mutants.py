"""Mutants of recipes that are right: seeded, structure-aware, each with what was done to it.

``mutant(seed, index, bases)`` is always the same one. Kinds of mutation are in ``MUTATIONS``, here,
in ``command_line_mutants``, and in ``whole_mutants``, which has those that leave nothing of a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import yaml
from attrs import frozen
from command_line_mutants import COMMAND_LINE
from hostile_text import CONTROLS, DIRECTIONS, KEY_TWISTS, NAMES, PATHS, RAW_VALUES, nested
from recipe_drafts import Base, Draft, Slot, quoted
from whole_mutants import WHOLE

REPOSITORY = Path(__file__).parents[2]

TOY = """\
name: toy
description: counts, and builds a model
launcher: {use: direct}
trackers: [{use: file}]
model:
  body: {use: layers, count: 3}
  head: {use: doubled}
stages:
  one: {use: count, to: 2, seconds: 0.0, label: text}
  two:
    use: count
    to: 1
    from: one
    schedule: {use: ramp, steps: 4}
    data:
      extends: words.yaml
      more: {use: words, words: [x, y]}
    layers: {count: 7, kind: deep}
    pair: [1, 0.25]
    flag: true
  three: {use: build}
  four: {use: use_model, from: three}
  five: {use: take, from: two}
  six: {use: take, from: org/name@main}
"""
WORDS = "few: {use: words, words: [a]}\nmany: {use: words, words: [b, c], file: words.txt}\n"


@frozen(kw_only=True)
class Mutant:
    """A recipe to validate, ``files`` being all that is in its folder, and what was done to it."""

    index: int
    kind: str
    why: str
    base: Base
    files: Mapping[str, bytes]
    settings: Sequence[str]
    sweeps: Sequence[str]
    refused: bool
    """Whether it must be refused: whoever took it would take something else than was written."""


def bases() -> tuple[list[Base], list[int]]:
    """The recipes that are mutated, and how often each is: large ones take a third of a second."""
    recipes = {file.relative_to(REPOSITORY / "recipes"): file for file in (REPOSITORY / "recipes").rglob("*.yaml")}
    shipped = {name.as_posix(): file.read_bytes() for name, file in recipes.items()}
    without_tiny = {name: content for name, content in shipped.items() if name != "smollm3-tiny.yaml"}
    layouts = (REPOSITORY / "tests" / "pipeline" / "layouts.yaml").read_bytes()
    toy = {"toy.yaml": TOY.encode(), "words.yaml": WORDS.encode(), "words.txt": b"d\ne\n"}
    found = [
        Base(name="toy", main="toy.yaml", files=toy, plugins="toy"),
        Base(name="layouts", main="layouts.yaml", files={"layouts.yaml": layouts}, plugins="built-in"),
        Base(name="smollm3-tiny", main="smollm3-tiny.yaml", files=shipped, plugins="built-in"),
        Base(name="smollm3", main="smollm3.yaml", files=without_tiny, plugins="built-in"),
    ]
    return found, [60, 28, 8, 4]


def mutant(seed: int, index: int, among: tuple[list[Base], list[int]]) -> Mutant:
    """The mutant of that number."""
    random = Random(f"{seed} {index}")
    kinds = {**MUTATIONS, **COMMAND_LINE, **WHOLE}
    kind = list(kinds)[index % len(kinds)]
    (base,) = random.choices(*among)
    draft = Draft(random=random, base=base, files=dict(base.files))
    kinds[kind](draft)
    return Mutant(
        index=index,
        kind=kind,
        why=draft.why,
        base=base,
        files=draft.files,
        settings=draft.settings,
        sweeps=draft.sweeps,
        refused=draft.refused,
    )


def _rename_key(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root, lambda slot: isinstance(slot.holder, yaml.MappingNode))
    twist = draft.random.choice(list(KEY_TWISTS))
    key, value = slot.holder.value[slot.index]
    new = KEY_TWISTS[twist](draft.random, key.value)
    slot.holder.value[slot.index] = (quoted(new), value)
    # A name that the recipe chooses may be any; what refers to it is missed, if something does.
    draft.refused = not slot.free or twist in ("invisible", "direction", "control", "look-alike")
    draft.why = f"{twist} in key {'.'.join(slot.path)} of {file}: {new[:60]!r}"
    draft.write(file, root)


def _duplicate_key(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root, lambda slot: isinstance(slot.holder, yaml.MappingNode))
    key, value = slot.holder.value[slot.index]
    again = draft.random.choice((value, draft.raw("null"), draft.raw("0")))
    if again is value:
        again = yaml.compose(yaml.serialize(value))  # another node, or it would become an alias
    slot.holder.value.append((draft.random.choice((key, quoted(key.value))), again))
    draft.refused, draft.why = True, f"key {'.'.join(slot.path)} of {file} twice"
    draft.write(file, root)


def _retype(draft: Draft) -> None:
    _put(draft, draft.raw(draft.random.choice(RAW_VALUES)))


def _put(draft: Draft, node: yaml.Node, keep: Callable[[Slot], object] = lambda slot: True) -> Slot:
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root, keep)
    slot.put(node)
    draft.write(file, root)
    written = next((raw for raw in draft._raws.values()), getattr(node, "value", ""))
    draft.why = f"{'.'.join(slot.path)} of {file} became {str(written)[:60]!r}"
    return slot


def _swap(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    one, other = draft.pick(root), draft.pick(root)
    if one.path[: len(other.path)] == other.path or other.path[: len(one.path)] == one.path:
        one.put(draft.raw("null"))
    else:
        one_value, other_value = one.value, other.value
        one.put(other_value)
        other.put(one_value)
    draft.why = f"{'.'.join(one.path)} and {'.'.join(other.path)} of {file} swapped"
    draft.write(file, root)


def _delete(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root)
    del slot.holder.value[slot.index]
    draft.why = f"{'.'.join(slot.path)} of {file} left out"
    draft.write(file, root)


def _refer(draft: Draft) -> None:
    """A stage refers to itself, to one after it, to none."""
    root = draft.tree(draft.base.main)
    stages = next((slot.value for slot in draft.slots(root) if slot.path == ("stages",)), None)
    names = [key.value for key, _ in stages.value] if stages is not None else []
    last = ("from", "base", "tokenizer", "models")
    target = draft.random.choice([*names, *names, "nobody", "", "@", "a@b@c", "org/name", "./..", "~", "/", "../x@y"])
    _put(draft, quoted(target), lambda slot: slot.path[-1] in last or slot.path[-2:-1] in (("from",), ("models",)))


def _path(draft: Draft) -> None:
    keys = ("extends", "from", "file", "folder", "paths", "chat_template", "id", "data_dir", "data_files", "tokenizer")
    value = quoted(draft.random.choice(PATHS))
    file = draft.pick_file()
    root = draft.tree(file)
    if draft.random.random() < 0.4:
        slot = draft.pick(root, lambda slot: slot.path[-1] in keys)
        slot.put(yaml.SequenceNode("tag:yaml.org,2002:seq", [value]) if draft.random.random() < 0.1 else value)
    else:  # where an option takes a path that the recipe does not use
        key = draft.random.choice(("extends", "from", "file", "folder", "chat_template", "paths"))
        slot = draft.pick(root, lambda slot: isinstance(slot.value, yaml.MappingNode))
        if isinstance(slot.value, yaml.MappingNode):
            slot.value.value = [(k, v) for k, v in slot.value.value if k.value != key]
            slot.value.value.append((yaml.ScalarNode("tag:yaml.org,2002:str", key), value))
    draft.why = f"path {value.value[:60]!r} at or in {'.'.join(slot.path)} of {file}"
    draft.write(file, root)


def _files_source(draft: Draft) -> None:
    """The sources that read from disk: globs that match everything, devices, folders."""
    path = draft.random.choice(PATHS)
    use = draft.random.choice(("files", "files", "hf_dataset", "words"))
    root = draft.tree(draft.base.main)
    key = {"files": "paths", "hf_dataset": "id", "words": "file"}[use]
    text = yaml.serialize(quoted(path)).strip()
    value = f"[{text}]" if use == "files" else text
    slot = draft.pick(root, lambda slot: _use(slot.value) in ("arithmetic", "words", "python_docs", "hf_dataset"))
    slot.put(draft.raw(f"{{use: {use}, {key}: {value}}}"))
    draft.why = f"source {use} of {path[:60]!r} at {'.'.join(slot.path)}"
    draft.write(draft.base.main, root)


def _use(node: yaml.Node) -> str:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value.value for key, value in pairs if key.value == "use" and isinstance(value.value, str)), "")


def _name_recipe(draft: Draft) -> None:
    name = draft.random.choice(NAMES)
    root = draft.tree(draft.base.main)
    draft.pick(root, lambda slot: slot.path == ("name",)).put(quoted(name))
    draft.why = f"the recipe's name is {name[:60]!r}"
    draft.write(draft.base.main, root)


def _name_stage(draft: Draft) -> None:
    """A stage gets another name, and so do all references to it."""
    root = draft.tree(draft.base.main)
    slot = draft.pick(root, lambda slot: slot.path[:1] == ("stages",) and len(slot.path) == 2)
    old, new = slot.path[-1], draft.random.choice(NAMES)
    _, value = slot.holder.value[slot.index]
    slot.holder.value[slot.index] = (quoted(new), value)
    for other in draft.slots(root, lambda slot: isinstance(slot.value, yaml.ScalarNode) and slot.value.value == old):
        other.put(quoted(new))
    draft.why = f"stage {old} is called {new[:60]!r}"
    draft.write(draft.base.main, root)


def _names_alike(draft: Draft) -> None:
    """Two stages whose folders would be one where case or normalisation of names does not count."""
    one, other = draft.random.choice(
        (("sft", "SFT"), ("\u00e9", "e\u0301"), ("fi", "\ufb01"), ("K", "\u212a"), ("i", "I"))
    )
    root = draft.tree(draft.base.main)
    slot = draft.pick(root, lambda slot: slot.path[:1] == ("stages",) and len(slot.path) == 2)
    counting, learning = "{use: count, to: 1}", "{use: train_tokenizer, vocab_size: 300, data: {a: {use: python_code}}}"
    stage = counting if draft.base.plugins == "toy" else learning
    slot.holder.value += [(quoted(name), draft.raw(stage)) for name in (one, other)]
    draft.refused, draft.why = True, f"stages {one!r} and {other!r}"
    draft.write(draft.base.main, root)


def _nest(draft: Draft) -> None:
    depth = draft.random.choice((10, 60, 64, 65, 200, 990, 100_000))
    style = draft.random.choice(("flow lists", "flow mappings", "block lists", "keys"))
    _put(draft, draft.raw(nested(depth, style)))
    draft.why += f" ({depth} levels of {style})"
    draft.refused = depth > 64


def _alias(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    one, other = draft.pick(root), draft.pick(root)
    if one.value is other.value or one.path[: len(other.path)] == other.path:
        one.put(draft.raw("&again [*again]"))
    else:
        other.put(one.value)
    draft.refused, draft.why = True, f"{'.'.join(other.path)} of {file} is an alias"
    draft.write(file, root)


def _tag(draft: Draft) -> None:
    tags = ("!!python/object/apply:os.system", "!!python/name:os.system", "!!str", "!!int", "!!float", "!!set", "!local",
            "!!binary", "!!omap", "!include", "!env", "!", "!<x>", "!!null")  # fmt: skip
    tag = draft.random.choice(tags)
    value = draft.random.choice(("x", "3", "[a]", "{a: 1}", "null", "'3'"))
    _put(draft, draft.raw(f"{tag} {value}"))
    draft.refused = True


def _merge_key(draft: Draft) -> None:
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root, lambda slot: isinstance(slot.value, yaml.MappingNode))
    value = draft.random.choice(("{a: 1}", "{use: count}", "[{a: 1}, {b: 2}]", "3", "null", "*x"))
    node = slot.value if isinstance(slot.value, yaml.MappingNode) else root
    node.value.insert(0, (yaml.ScalarNode("tag:yaml.org,2002:merge", "<<"), draft.raw(value)))
    draft.refused, draft.why = True, f"a merge key in {'.'.join(slot.path)} of {file}"
    draft.write(file, root)


def _add(draft: Draft) -> None:
    """Something that no mapping there has."""
    file = draft.pick_file()
    root = draft.tree(file)
    slot = draft.pick(root, lambda slot: isinstance(slot.value, yaml.MappingNode))
    key = draft.random.choice(
        ("extra", "use", "extends", "sweep", "model", "__class__", "__init__", "self", "_", "lr", "0")
    )
    if isinstance(slot.value, yaml.MappingNode):
        slot.value.value = [(k, v) for k, v in slot.value.value if k.value != key]
        slot.value.value.append((quoted(key), draft.raw(draft.random.choice(RAW_VALUES))))
    draft.why = f"key {key} in {'.'.join(slot.path)} of {file}"
    draft.write(file, root)


def _many(draft: Draft) -> None:
    """So many keys, or items, that what is quadratic in them would not end."""
    count = draft.random.choice((1000, 20_000, 100_000))
    item = draft.random.choice(("one", "x", "1", "null", "{use: count, to: 1}", "{use: words}", "tokens", "{}", "[]"))
    if draft.random.random() < 0.6:
        text = "{" + ", ".join(f"k{number}: {item}" for number in range(count)) + "}"
    else:
        text = "[" + ", ".join([item] * count) + "]"
    _put(draft, draft.raw(text))
    draft.why += f" ({count} times {item})"


def _spoil_text(draft: Draft) -> None:
    """What editors, networks and disks do to a file."""
    random, file = draft.random, draft.pick_file()
    content = draft.files[file]
    at = random.randrange(len(content) + 1)
    kind = random.choice(("cut", "flip", "flip", "insert", "tabs", "crlf", "cr", "bom", "nul", "latin", "utf-16", "utf-32",
                          "documents", "control", "direction", "no newline", "line twice", "lines swapped", "line gone"))  # fmt: skip
    lines = content.splitlines(keepends=True)
    line = random.randrange(len(lines))
    spoilt = {
        "cut": lambda: content[:at],
        "flip": lambda: bytes(byte ^ (1 << random.randrange(8)) if place in spots else byte for place, byte in enumerate(content)),
        "insert": lambda: content[:at] + bytes([random.randrange(256)]) + content[at:],
        "tabs": lambda: content.replace(b"  ", b"\t", random.choice((1, 3, -1))),
        "crlf": lambda: content.replace(b"\n", b"\r\n"),
        "cr": lambda: content.replace(b"\n", b"\r"),
        "bom": lambda: b"\xef\xbb\xbf" + content,
        "nul": lambda: content[:at] + b"\0" + content[at:],
        "latin": lambda: content[:at] + "\u00e9\u00df".encode("latin-1") + content[at:],
        "utf-16": lambda: content.decode().encode("utf-16"),
        "utf-32": lambda: content.decode().encode("utf-32"),
        "documents": lambda: content + random.choice((b"---\n", b"...\n---\nname: b\n", b"--- x\n")) + content,
        "control": lambda: content[:at] + random.choice(CONTROLS).encode() + content[at:],
        "direction": lambda: content[:at] + random.choice(DIRECTIONS).encode() + content[at:],
        "no newline": lambda: content.rstrip(b"\n"),
        "line twice": lambda: b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]]),
        "lines swapped": lambda: b"".join([*lines[line:], *lines[:line]]),
        "line gone": lambda: b"".join([*lines[:line], *lines[line + 1 :]]),
    }  # fmt: skip
    spots = {random.randrange(max(1, len(content))) for _ in range(random.choice((1, 3)))}
    draft.files[file] = spoilt[kind]()
    draft.refused = kind in ("nul", "utf-16", "utf-32", "documents", "latin")
    draft.why = f"{kind} in {file}, byte {at}, line {line + 1}"


MUTATIONS: Mapping[str, Callable[[Draft], None]] = {
    "key renamed": _rename_key,
    "key twice": _duplicate_key,
    "value retyped": _retype,
    "values swapped": _swap,
    "value left out": _delete,
    "references": _refer,
    "paths": _path,
    "data on disk": _files_source,
    "recipe name": _name_recipe,
    "stage name": _name_stage,
    "names alike": _names_alike,
    "nested": _nest,
    "alias": _alias,
    "tag": _tag,
    "merge key": _merge_key,
    "key added": _add,
    "many": _many,
    "text spoilt": _spoil_text,
}
