"""`mvrec hub`: networks to and from the Hugging Face Hub, or folders laid out as there."""

import argparse

from mvrec.errors import UserError
from mvrec.export.hub import pull, push_to_hub, repository, save_pretrained
from mvrec.files import at_home
from mvrec.inference.recogniser import load_recogniser
from mvrec.messages import CommandParser
from mvrec.models.checkpoints.files import each_file_once


def main(arguments: list[str]) -> None:
    """Push a trained network to the Hugging Face Hub or into a folder laid out as there, or pull one from it."""
    parser = CommandParser(prog="mvrec hub", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull")
    push = commands.add_parser("push", help="write weights, config.json and model card")
    push.add_argument("ckpt", metavar="CKPT", help="a run directory, a checkpoint, weights, or hf://user/name")
    push.add_argument(
        "destination",
        metavar="REPO_OR_FOLDER",
        help="user/name or hf://user/name on the Hub; or a folder: an existing one, or a path such as ./name",
    )
    push.add_argument("--classes", metavar="FILE", help="names in label order, where the weights have none")
    push.add_argument("--private", action="store_true", default=None, help="a repository that is made is private")
    push.add_argument("--message", metavar="TEXT", help="of the commit (default: Upload model with mvrec)")
    push.add_argument("--branch", help="in place of main")
    push.add_argument("--create_pr", action="store_true", help="make a pull request instead of a commit")
    push.set_defaults(run=_push)
    fetch = commands.add_parser("pull", help="copy a model into a folder")
    fetch.add_argument("name", metavar="REPO", help="user/name or hf://user/name[@revision]")
    fetch.add_argument("-o", "--output", type=at_home, required=True, metavar="DIR")
    fetch.add_argument("--revision", help="branch, tag or commit; the main branch by default")
    fetch.add_argument(
        "--offline", action="store_true", help="never touch the network, as HF_HUB_OFFLINE=1: from the Hub's cache"
    )
    fetch.set_defaults(run=_pull)
    options = parser.parse_args(arguments)
    with each_file_once():
        options.run(options)


def _push(options: argparse.Namespace) -> None:
    for name in ("private", "message", "branch", "create_pr"):
        if getattr(options, name) and _is_folder(options.destination):
            raise UserError(f"--{name} is for a repository of the Hub, and {options.destination} is a folder")
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device="cpu", where="CKPT")
    if _is_folder(options.destination):
        folder = save_pretrained(recogniser, options.destination)
        print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")  # noqa: T201
        return
    repo_id, revision = repository(options.destination)
    address = push_to_hub(
        recogniser,
        repo_id,
        commit_message=options.message or "Upload model with mvrec",
        private=options.private,
        branch=options.branch or revision,
        create_pr=options.create_pr,
    )
    print(f"pushed: {address}\nto load it: mvrec.load('hf://{repo_id}')")  # noqa: T201


def _is_folder(destination: str) -> bool:
    """Return whether a destination is a folder: an existing one, or a path not of the form `user/name`."""
    if destination.startswith("hf:/"):
        return False
    return at_home(destination).is_dir() or destination.startswith((".", "/", "~")) or (destination.count("/") != 1)


def _pull(options: argparse.Namespace) -> None:
    folder, names = pull(options.name, options.output, revision=options.revision, local_files_only=options.offline)
    print(f"{folder}: {', '.join(names)}")  # noqa: T201
