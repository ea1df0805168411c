"""What one branch of a repository is to hold."""

from __future__ import annotations

from attrs import frozen

from smolrecipe_hub.files import Files

MAIN = "main"


@frozen(kw_only=True)
class Branch:
    """A branch: the files of one model and its card."""

    name: str
    source: str
    """The folder of the model below the run."""
    files: Files
    card: str
    message: str
    """Of its commit."""

    @property
    def size(self) -> int:
        """Bytes in all, the card included."""
        return self.files.size + len(self.card.encode())
