"""A model provider on this machine, for programs that use the SDKs of OpenAI and Anthropic."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

CONTENT = "In Japan, yes."
INPUT_TOKENS, OUTPUT_TOKENS = 1200, 300
ONE_HOUR_CACHE_TOKENS, WEB_SEARCHES = 200, 2


def chat_completion(request: dict[str, Any]) -> dict[str, Any]:
    """Respond as OpenAI's chat completions API does."""
    message = {"role": "assistant", "content": CONTENT}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{request['model']}-2024-07-18",
        "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
            # As compatible servers do, which have no such details.
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
    }


def message(request: dict[str, Any]) -> dict[str, Any]:
    """Respond as Anthropic's messages API does."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{"type": "text", "text": CONTENT}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": INPUT_TOKENS,
            "output_tokens": OUTPUT_TOKENS,
            "cache_creation_input_tokens": ONE_HOUR_CACHE_TOKENS,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 0,
                "ephemeral_1h_input_tokens": ONE_HOUR_CACHE_TOKENS,
            },
            "cache_read_input_tokens": 0,
            "server_tool_use": {"web_search_requests": WEB_SEARCHES},
            "service_tier": "standard",
        },
    }


RESPONSES = {"/v1/chat/completions": chat_completion, "/v1/messages": message}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(RESPONSES[self.path](request)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def fake_provider() -> Iterator[dict[str, str]]:
    """Serve both APIs; yield the environment variables with which the SDKs find them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": f"{url}/v1",
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": url,
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
