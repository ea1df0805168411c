"""What of an artifact is uploaded: the files that loading its model takes, each as its manifest says it was published.

Checkpoints of the engine, optimizer state, logs, metrics and samples of the data are none of these and stay here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from attrs import frozen

from smolrecipe import RecipeError, StageError, UserError
from smolrecipe.checkpoint import CONFIG_FILE, GENERATION_FILE, INDEX_FILE, check_checkpoint, weight_files
from smolrecipe.handing_on import MANIFEST_FILE, damages, read_manifest, redact
from smolrecipe.stage import STAGE_FILE
from smolrecipe.strict_json import printable
from smolrecipe_hub.lineage import Published, is_artifact

COMPANIONS = (
    CONFIG_FILE,
    GENERATION_FILE,
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""Files besides the weights that transformers loads a model and its tokenizer from."""

CARD_FILE = "README.md"

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
"""What tokens of the Hub look like."""


@frozen(kw_only=True)
class File:
    """A file to upload, with the checksum that it was published with."""

    name: str
    path: Path
    size: int
    sha256: str


@frozen(kw_only=True)
class Files:
    """The files of one model, and the names of what lies beside them and is left here."""

    files: tuple[File, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)


def files_of(artifact: Published, folder: str) -> Files:
    """The files of the model in ``folder`` of an artifact, held against the manifest byte by byte.

    Raises:
        RecipeError: for a folder that is no published artifact.
        UserError: when a file is not what was published, is damaged, or holds a secret.
    """
    root = artifact.folder
    if not is_artifact(root):
        raise RecipeError([f"{root} is no published artifact: it lacks {STAGE_FILE} or {MANIFEST_FILE}"])
    try:
        manifest = read_manifest(root)
        wrong = damages(root, sizes_only=True)
    except ValueError as error:
        raise _damaged(root, str(error)) from None
    if wrong:
        raise _damaged(root, "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
    try:
        check_checkpoint(root / folder)
        weights = {file.name for file in weight_files(root / folder)}
    except StageError as error:
        raise _damaged(root, str(error)) from None
    inside = {name.removeprefix(f"{folder}/"): name for name in manifest if name.startswith(f"{folder}/")}
    chosen = [name for name in inside if name in weights or name in COMPANIONS]
    found = []
    for name in chosen:
        path, entry = root / inside[name], manifest[inside[name]]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.sha256:
            raise _damaged(root, f"{inside[name]} was changed")
        if name not in weights:
            refuse_secrets(path.read_text(encoding="utf-8", errors="replace"), str(path))
        found.append(File(name=name, path=path, size=entry.size, sha256=entry.sha256))
    return Files(files=tuple(found), left_out=tuple(sorted(printable(name) for name in inside.keys() - {*chosen})))


def refuse_secrets(content: str, where: str) -> None:
    """Refuse text in which a secret of this environment stands, or a token of the Hub.

    Raises:
        UserError: naming the place, not the secret.
    """
    if redact(content) != content or _TOKEN.search(content):
        raise UserError(f"{where} holds what looks like a token or a password, so it is not uploaded: remove it there")


def _damaged(root: Path, what: str) -> UserError:
    return UserError(f"{root} is not what was published ({what}): nothing was uploaded; 'smolrecipe verify {root}'")
