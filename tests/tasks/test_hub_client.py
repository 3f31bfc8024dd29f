"""The hub's own client lists and fetches a set, from a server on this machine."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import pytest

pytest.importorskip("pyarrow", reason="needs the extra `data`: pyarrow")
pytest.importorskip("huggingface_hub", reason="needs the extra `train`: huggingface_hub")

PROGRAM = """
import sys
from jaxevo.tasks import load_task

for name in sys.argv[1:]:
    try:
        source = load_task(name)
        print(*sorted(source.train(i).answer for i in range(2)))
    except ValueError as fault:
        print(fault)
"""
BRANCH = "refs/convert/parquet"


@pytest.fixture
def endpoint(tmp_path):
    """The address of a server that answers as the hub does about one set, org/sums."""
    import pyarrow.parquet

    file = tmp_path / "0000.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": ["1", "2"]}), file)
    listed = {"type": "file", "path": "main/train/0000.parquet", "size": file.stat().st_size}
    answers = {
        f"/api/datasets/org/sums/tree/{BRANCH}": json.dumps([{**listed, "oid": "1" * 40}]).encode(),
        f"/datasets/org/sums/resolve/{BRANCH}/main/train/0000.parquet": file.read_bytes(),
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = answers.get(urllib.parse.unquote(self.path).partition("?")[0])
            self.send_response(404 if body is None else 200)
            headers = {"ETag": '"abc"', "X-Repo-Commit": "2" * 40}
            for name, value in {**headers, "Content-Length": str(len(body or b""))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *said):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_set_is_fetched_and_an_unknown_one_refused(endpoint, tmp_path):
    names = ["hf:org/sums?held_out=0", "hf:org/sums?split=test", "hf:org/other"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    fetched, no_split, unknown = done.stdout.splitlines()
    assert fetched == "1 2"
    assert no_split == "hf:org/sums has no split 'test'. Choose from train."
    assert unknown.startswith("hf:org/other is no folder here, and the Hugging Face hub did not")
    assert "404" in unknown
