"""The few answers of the Hugging Face hub that an upload needs, from a process of its own.

`python tests/hub_server.py FOLDER` prints its address. A token `hf_right` may write to `me`. What is
committed lies in FOLDER/me/NAME. While FOLDER/refuse exists, no commit is taken.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

FOLDER = Path(sys.argv[1])


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        """A large file, under the sha256 that was promised."""
        data, digest = self.body(), self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != digest:
            return self.answer(400, {"error": "another sha256"})
        (FOLDER / "large").mkdir(exist_ok=True)
        (FOLDER / "large" / digest).write_bytes(data)
        return self.answer(200, {})

    def do_GET(self) -> None:
        self.answer(404, {"error": "no such repository"})

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if self.path.endswith("/preupload/main"):
            return self.answer(200, {"files": [kind(f["path"]) for f in json.loads(body)["files"]]})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(
                200, {"objects": [self.place(o) for o in json.loads(body)["objects"]]}
            )
        return self.commit(self.path.split("/")[3:5], body)

    def create(self, wish: dict) -> None:
        owner, name = wish.get("organization") or "me", wish["name"]
        if owner != "me":
            return self.answer(403, {"error": f"You don't have the rights to create under {owner}"})
        folder = FOLDER / owner / name
        existed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        (FOLDER / "wishes.jsonl").open("a").write(json.dumps(wish) + "\n")
        address = f"http://{self.headers['Host']}/{owner}/{name}"
        return self.answer(409 if existed else 200, {"url": address})

    def validate(self, content: str) -> None:
        """As the hub does it, a base model must be an id."""
        base = yaml.safe_load(content.split("---\n")[1]).get("base_model", "a/b")
        errors = [] if base.count("/") == 1 else [{"message": f"base_model {base} is no id"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def place(self, wanted: dict) -> dict:
        address = f"http://{self.headers['Host']}/large/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": address}}}

    def commit(self, repository: list[str], body: bytes) -> None:
        if (FOLDER / "refuse").exists():
            return self.answer(403, {"error": "storage limit reached"})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = (FOLDER / "large" / value["oid"]).read_bytes()
            else:
                continue
            path = FOLDER.joinpath(*repository, value["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        address = f"http://{self.headers['Host']}/{'/'.join(repository)}/commit/{'0' * 40}"
        return self.answer(200, {"commitUrl": address, "commitOid": "0" * 40})


def kind(path: str) -> dict:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
