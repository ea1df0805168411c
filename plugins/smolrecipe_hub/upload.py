"""Sending what was gathered to the Hugging Face Hub: one commit a branch, the branch of the models on the way first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from smolrecipe import UserError, __version__
from smolrecipe_hub.branches import MAIN, Branch
from smolrecipe_hub.files import CARD_FILE

_UNREACHABLE = (httpx.HTTPError, ConnectionError, TimeoutError, OfflineModeIsEnabled)


def upload(repository: str, branches: Sequence[Branch], *, private: bool, say: Callable[[str], None]) -> str:
    """Make the repository where it is not there, and commit each branch; returns its address.

    Running it again after an interruption sends what is not there yet: files that are, the Hub does not take twice.

    Raises:
        UserError: without a token or a network, when the Hub refuses, or a file changes meanwhile.
    """
    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so that nothing can be uploaded: unset it, or add --dry-run")
    token = get_token()
    if token is None:
        raise UserError(
            "uploading needs a token of the Hugging Face Hub that may write, and there is none here: log in with "
            "'hf auth login', or set HF_TOKEN; --dry-run needs none"
        )
    api = HfApi(token=token, library_name="smolrecipe", library_version=__version__)
    done: list[str] = []
    try:
        address = str(api.create_repo(repository, private=private or None, exist_ok=True))
        if private and not api.model_info(repository).private:
            raise UserError(
                f"{address} is there already and public: make it private on its page, or leave out --private"
            )
        root = api.list_repo_commits(repository)[-1].commit_id if len(branches) > 1 else None
        for branch in branches:
            if branch.name != MAIN:
                api.create_branch(repository, branch=branch.name, revision=root, exist_ok=True)
            say(f"{branch.name}: {len(branch.files.files) + 1} files, {branch.size / 2**20:,.1f} MiB")
            api.create_commit(
                repository, _operations(branch), commit_message=branch.message, revision=branch.name, num_threads=4
            )
            done.append(branch.name)
    except ValueError as error:  # what the Hub says of the card's metadata
        raise UserError(
            f"the Hugging Face Hub refused the card: {' '.join(str(error).split())}{_so_far(done)}"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(_refusal(repository, error, done)) from None
    except _UNREACHABLE as error:
        raise UserError(
            f"the Hugging Face Hub ({constants.ENDPOINT}) could not be reached ({_line(error)}){_so_far(done)}"
        ) from None
    return address


def _operations(branch: Branch) -> list[CommitOperationAdd]:
    """The files of a branch, read once more: what was changed since it was checked is not sent."""
    operations = []
    for file in branch.files.files:
        operation = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path)
        if operation.upload_info.sha256.hex() != file.sha256:
            raise UserError(f"{file.path} was changed while it was being uploaded: 'smolrecipe verify' says what else")
        operations.append(operation)
    return [*operations, CommitOperationAdd(path_in_repo=CARD_FILE, path_or_fileobj=branch.card.encode())]


def _refusal(repository: str, error: HfHubHTTPError, done: Sequence[str]) -> str:
    status = error.response.status_code
    if status == 401:
        why = "it does not know this token: log in again with 'hf auth login'"
    elif status == 403:
        why = f"this token may not write to {repository}: take one with the right to write, or another repository"
    elif status == 404:
        why = f"there is no {repository}, or this token may not see it"
    else:
        why = _line(error)
    return f"the Hugging Face Hub refused ({status}): {why}{_so_far(done)}"


def _so_far(done: Sequence[str]) -> str:
    if not done:
        return "; nothing was uploaded, and the same command tries again"
    return f"; uploaded so far: {', '.join(done)}. The same command goes on with the rest"


def _line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
