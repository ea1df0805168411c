"""Servers for the tests of the generator ``openai``: a real one, and one that fails as told.

The real one is ``transformers serve`` with a small model. It answers; it cannot be made to be busy, to hang up or to
send nonsense. That is what ``Scripted`` is for.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from attrs import define, field

from smolrecipe.generation import Request

PIECES = ("<pad>", "<eos>", *(chr(code) for code in range(33, 127)), "\u0120", "\u010a")
"""What the small model writes: printable characters, a space and a new line, as byte-level tokenizers spell them."""

TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if enable_thinking %}thinking {% endif %}{% if add_generation_prompt %}assistant {% endif %}"
)


def save_model(folder: Path, *, do_sample: bool) -> None:
    """A small model with random weights; its tokens are characters."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Joined
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = do_sample
    model.save_pretrained(folder)
    pieces = Tokenizer(BPE({piece: index for index, piece in enumerate(PIECES)}, []))
    pieces.pre_tokenizer, pieces.decoder = ByteLevel(add_prefix_space=False), Joined()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """The address of ``transformers serve``; it has the model in ``folder``, by that name."""
    port = free_port()
    command = [
        *(sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)),
        *("--port", str(port), "--device", "cpu", "--host", "127.0.0.1"),
    ]
    log = folder.parent / f"{folder.name}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder.parent / "home")}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            _await(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until and process.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no server:\n{log.read_text(errors='replace')[-3000:]}")


@define
class Reply:
    """What is sent back."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(factory=dict)
    after: float = 0.0
    """Seconds of silence before it."""
    hang_up: bool = False
    """Send nothing, and close the connection."""


def said(text: str | None, finish: str | None = "stop", **message: Any) -> Reply:
    """A chat completion as servers send it."""
    return Reply(
        body={
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "toy",
            "choices": [
                {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        }
    )


def failed(status: int, message: str, **headers: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message}}, headers=headers)


@define
class Scripted:
    """A server that does what ``reply`` says to the how-many-eth time that a request, known by its seed, comes."""

    reply: Callable[[int, int], Reply]
    models: list[str] = field(factory=lambda: ["toy"])
    url: str = ""
    bodies: list[dict[str, Any]] = field(factory=list)
    keys: list[str] = field(factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(factory=threading.Lock)
    stopping: threading.Event = field(factory=threading.Event)

    def asked(self) -> list[int]:
        """The seeds of the requests that have come, in order."""
        return [body["seed"] for body in self.bodies]

    def handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            times = self.asked().count(body["seed"])
        try:
            reply = self.reply(body["seed"], times)
            self.stopping.wait(reply.after)
        finally:
            with self._lock:
                self._now -= 1
        if not reply.hang_up:
            send(handler, reply)
        handler.close_connection = reply.hang_up


def send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    handler.send_response(reply.status)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **reply.headers}
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def scripted(reply: Callable[[int, int], Reply], **more: Any) -> Iterator[Scripted]:
    """A server on this machine that follows a script."""
    script = Scripted(reply, **more)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            script.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            send(self, Reply(body={"object": "list", "data": [{"id": name} for name in script.models]}))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is none."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        script.stopping.set()
        server.shutdown()
        server.server_close()


def requests(count: int, content: str = "a b", **arguments: Any) -> list[Request]:
    """Requests whose seeds are their numbers."""
    return [
        Request(number=n, messages=({"role": "user", "content": f"{content} {n}"},), arguments=arguments, seed=n)
        for n in range(count)
    ]
