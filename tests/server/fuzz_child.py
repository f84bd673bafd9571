"""A server on a scripted engine, as a process of its own: prints its port."""

from qwen35_mlx.server.running import listen, serve
from tests.server.asgi import make_service

if __name__ == "__main__":
    listening = listen("127.0.0.1", 0)
    print(listening.getsockname()[1], flush=True)
    serve(make_service(), listening)
