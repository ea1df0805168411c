"""Mutants of what goes with a recipe on the command line: settings and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hostile_text import KEY_TWISTS, PATHS, RAW_VALUES, nested
from recipe_drafts import Draft, quoted


def _set(draft: Draft) -> None:
    root = draft.tree(draft.base.main)
    slot = draft.pick(root, lambda slot: all(path.isprintable() for path in slot.path))
    key = ".".join(slot.path)
    value = draft.random.choice((draft.random.choice(RAW_VALUES), draft.random.choice(PATHS), nested(70, "flow lists")))
    odd = draft.random.choice(("", "", "", "twist", "shape"))
    if odd == "twist":
        key = KEY_TWISTS[draft.random.choice(list(KEY_TWISTS))](draft.random, key)
    elif odd == "shape":
        key = draft.random.choice(("", ".", "..", "a" * 100_000, "a." * 5000 + "a", f"{key}.", f".{key}", f"{key}.0", "stages.one.to.x",
                                   "stages", "name.x", f"{key}\n", "\udcff", "=", f"{key}..x", "extends", "sweep", "stages.*.to"))  # fmt: skip
    setting = f"{key}={value}" if draft.random.random() < 0.95 else draft.random.choice((key, "", "=", value))
    draft.settings.append(setting.replace("\0", ""))  # no command line can hold it
    draft.why = f"--set {setting[:80]!r}"


def _sweep(draft: Draft) -> None:
    keys = ("stages.one.to", "stages.two.layers.kind", "stages.pretrain.optimizer.lr", "stages.apo.loss.use", "model", "name",
            "stages", "stages.nobody.x", "model.body.count", "", ".", "a" * 300, "a." * 2000 + "a", "stages.one.to\u200b")  # fmt: skip
    values = ("1,2", "1", "", "[", "{", ",", "1,1", "a,b", "null", "1,[2,{a: 3}]", "*x", "!!int 1", "\x1b,2", "1e400,2",
              ",".join(map(str, range(1001))), ",".join(["1"] * 50_000), nested(100, "flow lists"))  # fmt: skip
    if draft.random.random() < 0.5:
        for _ in range(draft.random.choice((1, 1, 2, 3))):
            draft.sweeps.append(f"{draft.random.choice(keys)}={draft.random.choice(values)}".replace("\0", ""))
        draft.why = f"--sweep {[sweep[:40] for sweep in draft.sweeps]}"
        return
    shape = draft.random.choice(("billion", "many axes", "many values", "twice", "odd", "googol"))
    twos = "[1, 2]"
    block = {
        "billion": "{" + ", ".join(f"stages.one.k{n}: {list(range(10))}" for n in range(9)) + "}",
        "googol": "{" + ", ".join(f"stages.one.k{n}: {twos}" for n in range(20_000)) + "}",
        "many axes": "{" + ", ".join(f"stages.one.k{n}: [1]" for n in range(20_000)) + "}",
        "many values": f"{{stages.one.to: {list(range(90_000))}}}",
        "twice": "{stages.one.to: [1, 1, 1.0, '1']}",
        "odd": draft.random.choice(
            ("[]", "3", "{stages.one.to: 3}", "{stages.one.to: []}", "{'': [1]}", "{a.b: [1]}", "null")
        ),
    }[shape]
    root = draft.tree(draft.base.main)
    root.value.append((quoted("sweep"), draft.raw(block)))
    draft.why = f"a sweep: {shape}"
    draft.refused = shape not in ("odd",)
    draft.write(draft.base.main, root)


COMMAND_LINE: Mapping[str, Callable[[Draft], None]] = {"--set": _set, "sweep": _sweep}
