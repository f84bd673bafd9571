"""The text of `/metrics`, as Prometheus reads it."""

from collections.abc import Iterator, Mapping

from qwen35_mlx.session.reply_requests import EngineStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(status: EngineStatus, counts: Mapping[tuple[str, int], int]) -> str:
    """All metrics.

    Args:
        counts: HTTP replies by path and status.
    """
    return "".join(f"{line}\n" for line in _lines(status, counts))


def _lines(status: EngineStatus, counts: Mapping[tuple[str, int], int]) -> Iterator[str]:
    name = "qwen35_http_requests_total"
    yield from _head(name, "counter", "HTTP requests by path and status.")
    for (path, code), count in sorted(counts.items()):
        yield f'{name}{{path="{path}",status="{code}"}} {count}'
    totals = status.totals
    for kind, short, text, value in (
        ("counter", "requests_total", "Requests for a reply.", totals.requests),
        ("counter", "replies_completed_total", "Replies that are complete.", totals.completed),
        ("counter", "replies_cancelled_total", "Replies that were cancelled.", totals.cancelled),
        ("counter", "replies_failed_total", "Replies that have failed.", totals.failed),
        ("counter", "prompt_tokens_total", "Tokens of prompts.", totals.prompt_tokens),
        (
            "counter",
            "cached_tokens_total",
            "Of these, tokens not read again.",
            totals.cached_tokens,
        ),
        ("counter", "reply_tokens_total", "Tokens of replies.", totals.reply_tokens),
        ("counter", "prefill_seconds_total", "Time to first tokens.", totals.prefill_seconds),
        ("counter", "decode_seconds_total", "Time of writing.", totals.decode_seconds),
        ("gauge", "active_replies", "Replies that are read or written now.", status.active),
        ("gauge", "queued_requests", "Requests that wait.", status.queued),
        ("gauge", "model_loaded", "1 if the model is in memory.", int(status.model is not None)),
    ):
        yield from _head(f"qwen35_{short}", kind, text)
        yield f"qwen35_{short} {value:.10g}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
