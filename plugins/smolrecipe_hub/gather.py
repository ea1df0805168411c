"""Everything that a push would send, gathered and checked before the first byte goes."""

from __future__ import annotations

from collections.abc import Callable

from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_hub.branches import MAIN, Branch
from smolrecipe_hub.files import files_of, refuse_secrets
from smolrecipe_hub.lineage import Lineage, trace
from smolrecipe_hub.revisions import revisions_of


def gather(lineage: Lineage, card: Callable[..., str], *, with_revisions: bool) -> list[Branch]:
    """The branches to upload, the main one last: what looks at it finds all others there.

    Raises:
        UserError: as ``files_of`` and ``revisions_of`` do.
    """
    branches = []
    traced = {lineage.target.digest: lineage}
    for revision in revisions_of(lineage) if with_revisions else ():
        behind = traced.setdefault(revision.artifact.digest, trace(revision.artifact))
        what = f", {revision.checkpoint}" if revision.checkpoint else ""
        branches.append(
            Branch(
                name=revision.name,
                source=f"{revision.artifact.folder.name}/{revision.folder}",
                files=files_of(revision.artifact, revision.folder),
                card=card(behind, revision=revision.name, checkpoint=revision.checkpoint),
                message=f"{_message(behind)}{what}",
            )
        )
    main = Branch(
        name=MAIN,
        source=f"{lineage.target.folder.name}/{MODEL_FOLDER}",
        files=files_of(lineage.target, MODEL_FOLDER),
        card=card(lineage),
        message=_message(lineage),
    )
    for branch in (*branches, main):
        refuse_secrets(branch.card, f"the card of {branch.name}")
    return [*branches, main]


def _message(lineage: Lineage) -> str:
    record = lineage.target.record
    return f"{record['recipe']}, stage {record['stage']} ({lineage.target.digest[:12]})"
