"""`mvrec serve`: a page in the browser, and a JSON endpoint, for a trained network."""

import argparse
import errno
import logging
import os
import socket
from inspect import getdoc

from mvrec.errors import UserError, need
from mvrec.messages import CommandParser
from mvrec.processes import Limits
from mvrec.ranges import POSITIVE, Range, check_range

log = logging.getLogger("mvrec")

MOST_THREADS = 2  # that read files
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of the machine, and the one by which it reaches itself
OPEN_TO_ALL = (
    "--host %s: everybody who reaches this machine can use the page, at %s; it has no password, and browsers give no "
    "camera to pages without https"
)


def main(arguments: list[str]) -> None:
    """Serve a page on which a video or image can be dropped, or a camera used, until Ctrl-C.

    The page asks nothing of other servers. Its answers are those of `mvrec recognize`, and programs get them as JSON:

        curl -F file=@clip.mp4 http://127.0.0.1:8000/api/recognize

    Only this machine can reach it, unless --host says otherwise. Uploads are deleted after the answer.
    """
    options = _parser().parse_args(arguments)
    check_range("--port", options.port, Range(0, 65535))
    for name in ("max_upload_mb", "time_limit", "upload_time_limit"):
        check_range(f"--{name.replace('_', '-')}", getattr(options, name), POSITIVE)
    check_range("--queue", options.queue)
    need("serve", "starlette", "uvicorn", "python_multipart")
    _serve(options)


def _serve(options: argparse.Namespace) -> None:
    import uvicorn

    from mvrec.data.loading.guarded_files import readers
    from mvrec.inference.recogniser import load_recogniser
    from mvrec.serve.answers import check_servable
    from mvrec.serve.app import Bounds, make_app
    from mvrec.serve.door import LOOPBACK

    limits = Limits()
    readers.limits = Limits(min(options.time_limit, limits.seconds or options.time_limit), limits.memory)
    readers.start(MOST_THREADS)  # before a network is loaded
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    check_servable(recogniser)
    recogniser = recogniser if options.protocol is None else recogniser.under_name(options.protocol)
    log.info("%s: %s, %s", recogniser.source, recogniser.outputs.describe(), recogniser.protocol)
    bounds = Bounds(
        round(options.max_upload_mb * 1e6),
        options.time_limit,
        options.queue,
        upload_seconds=options.upload_time_limit,
    )
    app = make_app(recogniser, bounds=bounds, host=options.host)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    try:
        with _bound(options.host, options.port) as listener:
            port = listener.getsockname()[1]
            if options.host not in LOOPBACK:
                log.warning(OPEN_TO_ALL, options.host, _address(_name_of_machine(options.host), port))
            log.info("open %s (Ctrl-C ends)", _address(ANY.get(options.host, options.host), port))
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _name_of_machine(host: str) -> str:
    return socket.gethostname() if host in ANY else host


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:  # the latter of a name such as a..b
        number = None if isinstance(error, socket.gaierror | UnicodeError) else error.errno
        reason = "there is no such host name" if number is None else os.strerror(number)  # without what Python adds
        is_port = number in (errno.EADDRINUSE, errno.EACCES)
        advice = "--port 0 takes a free one" if is_port else "--host 127.0.0.1 is this machine alone, 0.0.0.0 all of it"
        raise UserError(f"cannot listen on --host {host} --port {port}: {reason}; {advice}") from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="mvrec serve", description=getdoc(main), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt", metavar="RUN_OR_CKPT", help="a run directory, a checkpoint or weights")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine alone; 0.0.0.0: all")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one (default: %(default)s)")
    parser.add_argument(
        "--max-upload-mb", type=float, default=200.0, metavar="MB", help="of one request (default: %(default)g)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=120.0, metavar="S", help="for one answer (default: %(default)g)"
    )
    parser.add_argument(
        "--upload-time-limit", type=float, default=300.0, metavar="S", help="for one upload (default: %(default)g)"
    )
    parser.add_argument(
        "--queue", type=int, default=8, metavar="N", help="requests that may wait (default: %(default)s)"
    )
    parser.add_argument("--classes", metavar="LIST", help="names of the classes, where the checkpoint has none")
    parser.add_argument("--protocol", metavar="NAME", help="in place of the checkpoint's, as of mvrec recognize")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    return parser
