"""A small Hub-compatible server on loopback, for tests: repositories with commits, LFS, tokens, and faults on demand.

It answers what the real `huggingface_hub` client asks of a model repository, from memory. Standard library only.
Run as a script it serves until interrupted: `python tests/hub_server.py`, then `HF_ENDPOINT=http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopbackTokenThatMustNeverBePrinted"
"""The one token the server accepts; its user is `tester`, who may write in the name spaces of `HubServer.owners`."""


@dataclass
class File:
    """One file of one commit."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """SHA-256 of an LFS file, git's blob SHA-1 of a regular one: what the client compares with its own."""
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    """A model repository: commits by their hash, and the branches that point at them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        """Make `files` the whole tree of `branch`; returns the commit."""
        listing = "".join(f"{path}\0{file.oid}\0" for path, file in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}\0{message}\0{listing}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """Branch or commit -> commit."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer:
    """Start with `with HubServer() as hub:`; then read and set its attributes from the test.

    Attributes:
        repos: by `org/name`.
        owners: name spaces the token may write to.
        all_regular: answer "regular" for every uploaded file, so that nothing takes the LFS path.
        cut_after: file name -> list of byte counts; each GET of the file takes one off and breaks after that many.
        stall_after: file name -> byte count; each GET of the file sets `stalled` after that many and sends no more.
        corrupt: names of files that are served with their last byte flipped.
        requests: (method, path, headers with names in lower case) of everything that was asked.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.owners = {"tester"}
        self.lfs_store: dict[str, bytes] = {}
        self.all_regular = False
        self.cut_after: dict[str, list[int]] = {}
        self.stall_after: dict[str, int] = {}
        self.stalled, self._closing = threading.Event(), threading.Event()
        self.corrupt: set[str] = set()
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def add(self, repo_id: str, files: Mapping[str, bytes], *, lfs: bool = True, gated: bool = False) -> str:
        """Put files into a repository as one more commit on main, without the client; returns the commit."""
        repo = self.repos.setdefault(repo_id, Repo())
        repo.gated = gated
        tree = dict(repo.commits[repo.branches["main"]]) if repo.branches else {}
        tree.update({path: File(data, lfs) for path, data in files.items()})
        return repo.commit("main", tree, "added by the test")

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """The tree of a branch."""
        repo = self.repos[repo_id]
        return {path: file.data for path, file in repo.commits[repo.branches[branch]].items()}

    def downloads(self, name: str) -> list[Mapping[str, str]]:
        """Headers of every GET of a file of that name."""
        return [headers for method, path, headers in self.requests if method == "GET" and path.endswith(f"/{name}")]


class _RefusalError(Exception):
    """An error answer: status, the Hub's error code, and its message."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (named by http.server)

    # -- the frame of every answer ------------------------------------------------------------------------------

    def _route(self) -> None:
        self.body = self._read_body()
        with self.hub.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.hub.requests.append((self.command, self.path, headers))
        method = "GET" if self.command == "HEAD" else self.command
        path = unquote(urlsplit(self.path).path)
        try:
            self._check_token()
            for verb, pattern, answer in _ROUTES:
                if verb == method and (match := re.fullmatch(pattern, path)):
                    answer(self, *match.groups())
                    return
            raise _RefusalError(404, message=f"the test server has no {self.command} {path}")
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            if refusal.message:
                headers["X-Error-Message"] = refusal.message
            self._send(refusal.status, json.dumps({"error": refusal.message or refusal.code}).encode(), headers)
        except (BrokenPipeError, ConnectionResetError):  # the client left; its business
            self.close_connection = True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    # -- who may do what -----------------------------------------------------------------------------------------

    def _check_token(self) -> None:
        """Like the Hub: a wrong token is refused even where none is needed."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            raise _RefusalError(401, message="Invalid credentials in Authorization header")
        self.logged_in = token == TOKEN

    def _may_write(self, repo_id: str) -> None:
        if not self.logged_in:
            raise _RefusalError(401, message="Invalid username or password.")
        if repo_id.split("/")[0] not in self.hub.owners:
            raise _RefusalError(403, message=f"You don't have the rights to write to {repo_id}")

    def _repo(self, repo_id: str) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.logged_in):
            raise _RefusalError(404 if self.logged_in else 401, "RepoNotFound", "Repository not found")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        sha = repo.resolve(revision)
        if sha is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # -- the API -------------------------------------------------------------------------------------------------

    def whoami(self) -> None:
        if not self.logged_in:
            raise _RefusalError(401, message="Invalid username or password.")
        self._send_json({"type": "user", "name": "tester", "orgs": []})

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        self._may_write(repo_id)
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repos:
            self._send_json({"error": "You already created this model repo", "url": url}, 409)
            return
        repo = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repo.commit("main", {}, "initial commit")
        self.hub.repos[repo_id] = repo
        self._send_json({"url": url})

    def validate_yaml(self) -> None:
        has_front_matter = json.loads(self.body)["content"].startswith("---\n")
        errors = [] if has_front_matter else [{"message": "no front matter"}]
        self._send_json({"errors": errors, "warnings": []}, 200 if has_front_matter else 400)

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        self._may_write(repo_id)
        tree = repo.commits[self._commit(repo, revision)]
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            lfs = not self.hub.all_regular and path.endswith(".safetensors")
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if path in tree and tree[path].lfs == lfs:
                answer["oid"] = tree[path].oid
            answers.append(answer)
        self._send_json({"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        self._repo(repo_id)
        self._may_write(repo_id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid = asked["oid"]
            answer = {"oid": oid, "size": asked["size"]}
            if oid not in self.hub.lfs_store:
                upload = {"href": f"{self.hub.endpoint}/lfs-store/{oid}"}
                verify = {"href": f"{self.hub.endpoint}/lfs-verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self._send_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _RefusalError(400, message="the bytes do not match their oid")
        self.hub.lfs_store[oid] = self.body
        self._send(200, b"")

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.lfs_store.get(asked["oid"], b"")) != asked["size"]:
            raise _RefusalError(404, message="no such object")
        self._send(200, b"")

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        self._may_write(repo_id)
        tree = dict(repo.commits[self._commit(repo, revision)])
        message = ""
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    tree[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    tree[value["path"]] = File(self.hub.lfs_store[value["oid"]], lfs=True)
                case "deletedFile":
                    del tree[value["path"]]
        url = f"{self.hub.endpoint}/{repo_id}"
        if parse_qs(urlsplit(self.path).query).get("create_pr") == ["1"]:
            number = 1 + sum(branch.startswith("refs/pr/") for branch in repo.branches)
            sha = repo.commit(f"refs/pr/{number}", tree, message)
            discussion = f"{url}/discussions/{number}"
            self._send_json({"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "pullRequestUrl": discussion})
            return
        sha = repo.commit(revision, tree, message)
        self._send_json({"commitUrl": f"{url}/commit/{sha}", "commitOid": sha})

    def create_branch(self, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id)
        self._may_write(repo_id)
        if branch in repo.branches:
            raise _RefusalError(409, message="Reference already exists")
        repo.branches[branch] = self._commit(repo, json.loads(self.body or b"{}").get("startingPoint", "main"))
        self._send_json({})

    def model_info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self._repo(repo_id)
        sha = self._commit(repo, revision or "main")
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        gated = "manual" if repo.gated else False
        self._send_json({"id": repo_id, "sha": sha, "private": repo.private, "gated": gated, "siblings": siblings})

    def tree(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        entries = []
        for path, file in repo.commits[self._commit(repo, revision)].items():
            entry = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid[:40]}
            if file.lfs:
                entry["lfs"] = {"oid": file.oid, "size": len(file.data), "pointerSize": 130}
            entries.append(entry)
        self._send_json(entries)

    # Data sets are repositories called `datasets/ORG/NAME`; their trees are listed a folder at a time.

    def dataset_info(self, repo_id: str, revision: str | None = None) -> None:
        self.model_info(f"datasets/{repo_id}", revision)

    def dataset_tree(self, repo_id: str, revision: str, folder: str | None = None) -> None:
        repo = self._repo(f"datasets/{repo_id}")
        start = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for path, file in repo.commits[self._commit(repo, revision)].items():
            if path.startswith(start):
                name, is_folder, _ = path[len(start) :].partition("/")
                entry = {"type": "directory" if is_folder else "file", "path": start + name, "oid": file.oid[:40]}
                entries[name] = entry if is_folder else {**entry, "size": len(file.data)}
        if folder and not entries:
            raise _RefusalError(404, "EntryNotFound", f"{folder} is not in the repository")
        self._send_json(list(entries.values()))

    def dataset_resolve(self, repo_id: str, revision: str, path: str) -> None:
        self.resolve(f"datasets/{repo_id}", revision, path)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo = self._repo(repo_id)
        if repo.gated:
            raise _RefusalError(403 if self.logged_in else 401, "GatedRepo", f"Access to model {repo_id} is restricted")
        sha = self._commit(repo, revision)
        file = repo.commits[sha].get(path)
        if file is None:
            raise _RefusalError(404, "EntryNotFound", f"{path} is not in the repository")
        data = file.data
        if path in self.hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        headers = {
            "X-Repo-Commit": sha,
            "ETag": f'"{file.oid}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(data))}
        status, total = 200, len(data)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(int(match[2]) + 1, total) if match[2] else total
            status, data = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        if self.command == "GET" and self.hub.cut_after.get(path):
            self._send_part(status, data, headers, self.hub.cut_after[path].pop(0))
        elif self.command == "GET" and path in self.hub.stall_after:
            self._send_part(status, data, headers, self.hub.stall_after[path], stall=True)
        else:
            self._send(status, data, headers)

    def _send_part(
        self, status: int, data: bytes, headers: Mapping[str, str], count: int, *, stall: bool = False
    ) -> None:
        """Promise all of `data`, send `count` bytes of it, and break the connection; or leave it open in silence."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:count])
        self.wfile.flush()
        if stall:
            self.hub.stalled.set()
            self.hub._closing.wait(60)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


_ID = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create_repo),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs-store/(\w+)", _Handler.lfs_put),
    ("POST", r"/lfs-verify", _Handler.lfs_verify),
    ("POST", rf"/api/models/{_ID}/commit/(.+)", _Handler.commit),
    ("POST", rf"/api/models/{_ID}/branch/(.+)", _Handler.create_branch),
    ("GET", rf"/api/models/{_ID}/revision/(.+)", _Handler.model_info),
    ("GET", rf"/api/models/{_ID}/tree/(.+)", _Handler.tree),
    ("GET", rf"/api/models/{_ID}", _Handler.model_info),
    ("GET", rf"/api/datasets/{_ID}/revision/(.+)", _Handler.dataset_info),
    ("GET", rf"/api/datasets/{_ID}/tree/(refs/convert/parquet|[^/]+)(?:/(.+))?", _Handler.dataset_tree),
    ("GET", rf"/api/datasets/{_ID}", _Handler.dataset_info),
    ("GET", rf"/datasets/{_ID}/resolve/(refs/convert/parquet|[^/]+)/(.+)", _Handler.dataset_resolve),
    ("GET", rf"/{_ID}/resolve/([^/]+|refs/pr/\d+)/(.+)", _Handler.resolve),
]


if __name__ == "__main__":
    with HubServer() as server:
        print(f"HF_ENDPOINT={server.endpoint}  HF_TOKEN={TOKEN}", flush=True)
        threading.Event().wait()
