"""A server on a scripted engine, as a process of its own: prints its port.

`python -m tests.server.scripted_child [SECONDS]`: each reply pauses for as long.
"""

import sys

from qwen35_mlx.server.running import listen, serve
from qwen35_mlx.session.events import Answer
from tests.server.asgi import make_service
from tests.server.fake_engine import FakeEngine, done, reply

if __name__ == "__main__":
    pauses = [float(word) for word in sys.argv[1:]]
    events = [*reply(Answer("Hello"))[:-1], *pauses, done()]
    listening = listen("127.0.0.1", 0)
    print(listening.getsockname()[1], flush=True)
    serve(make_service(FakeEngine(lambda _: events)), listening)
