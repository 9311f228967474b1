"""Repositories of the hub, against a server on this machine that speaks as much of its protocol as is used."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest
from huggingface_hub import HfApi, constants, hf_api

import zoo
from zoo.errors import BundleError

# of huggingface_hub's own, when it sends a large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

EMPTY = "0" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Resolve, preupload, commit and LFS, of one repository with branches."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def do_HEAD(self):
        path = urllib.parse.unquote(self.path)
        self.server.log.append((self.command, path))
        if (status := self.server.faults.pop(0) if self.server.faults else None) is not None:
            return self.answer(status)
        if found := re.fullmatch(r"/api/models/me/pets/tree/([^/?]+)(\?.*)?", path):
            files = self.server.commits[self.server.branches.get(found[1], found[1])]
            return self.json([{"type": "file", "path": name, "size": 1, "oid": EMPTY} for name in files])
        found = re.fullmatch(r"/me/pets/resolve/([^/]+(?:/pr/\d)?)/(.+)", path)
        if found is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = self.server.branches.get(found[1], found[1])
        files = self.server.commits.get(commit)
        if files is None:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if found[2] not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = self.server.spoil(found[2], files[found[2]])
        etag = hashlib.sha256(files[found[2]]).hexdigest()
        return self.answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Size": str(len(data))})

    do_GET = do_HEAD

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.server.log.append(("POST", path))
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/me/pets.git/info/lfs/objects/batch":
            asked = json.loads(body)["objects"]
            url = f"{self.server.url}/large/"
            found = [{**one, "actions": {"upload": {"href": url + one["oid"]}}} for one in asked]
            return self.json({"transfer": "basic", "objects": found})
        found = re.fullmatch(r"/api/models/me/pets/(preupload|commit)/(.+)", path)
        if found is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if found[1] == "preupload":
            named = json.loads(body)["files"]
            told = [{"path": one["path"], "uploadMode": self.mode(one["path"]), "shouldIgnore": False} for one in named]
            return self.json({"files": told})
        return self.commit(found[2], [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.log.append(("PUT", self.path))
        assert self.path == f"/large/{hashlib.sha256(data).hexdigest()}"
        self.server.large[self.path.rpartition("/")[2]] = data
        self.answer(200)

    @staticmethod
    def mode(path):
        return "lfs" if path.endswith(".safetensors") else "regular"

    def commit(self, branch, lines):
        head, parent = lines[0]["value"], self.server.branches.get(branch, EMPTY)
        if head.get("parentCommit", parent) != parent:
            return self.json({"error": "changed"}, 412)
        files = dict(self.server.commits.get(parent, {}))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.server.commits[name] = files
        self.server.branches[branch] = name
        self.server.made.append([line["key"] for line in lines])
        return self.json({"success": True, "commitOid": name, "commitUrl": f"{self.server.url}/me/pets/commit/{name}"})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub: ``commits``, ``branches``, ``made`` (the commits' lines), ``faults`` (statuses), ``spoil``, ``log``."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    running.daemon_threads = True
    running.commits, running.branches = {EMPTY: {".gitattributes": b""}}, {"main": EMPTY, "dev": EMPTY}
    running.made, running.faults, running.log, running.large = [], [], [], {}
    running.spoil = lambda path, data: data
    thread = threading.Thread(target=lambda: running.serve_forever(0.01), daemon=True)
    thread.start()
    running.url = url = f"http://127.0.0.1:{running.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_save_is_one_commit_and_a_load_reads_it_back(hub, make, bundle):
    model = make.mini()

    assert model.save("hf://me/pets") == "hf://me/pets"
    assert make.same(zoo.load("hf://me/pets"), model)

    assert len(hub.made) == 1
    assert hub.made[0].count("lfsFile") == 2
    assert [path for _, path in hub.log if "/commit/" in path] == ["/api/models/me/pets/commit/main"]
    files = hub.commits[hub.branches["main"]]
    assert files.keys() == {".gitattributes", *make.contents(bundle)}
    assert files["heads/pet/model.safetensors"] == make.contents(bundle)["heads/pet/model.safetensors"]
    assert zoo.verify("hf://me/pets", run=True).ok


def test_a_folder_and_a_branch_are_told_apart(hub, make):
    make.mini(1).save("hf://me/pets/some/folder@dev")

    assert "some/folder/zoo.json" in hub.commits[hub.branches["dev"]]
    assert hub.branches["main"] == EMPTY
    assert make.same(zoo.load("hf://me/pets/some/folder@dev"), make.mini(1))
    with pytest.raises(BundleError, match="There is no bundle at hf://me/pets/some/folder: it"):
        zoo.load("hf://me/pets/some/folder")


def test_replacing_removes_what_only_the_old_bundle_had_in_the_same_commit(hub, make):
    pet = zoo.head("classifier", name="pet", classes=["cat", "dog"])
    make.mini(0, pet, zoo.head("regression", name="age")).save("hf://me/pets")
    with pytest.raises(BundleError, match="overwrite=True"):
        make.mini(1, pet).save("hf://me/pets")
    make.mini(1, pet).save("hf://me/pets", overwrite=True)

    files = hub.commits[hub.branches["main"]]
    assert len(hub.made) == 2
    assert hub.made[1].count("deletedFile") == 1
    assert "heads/age/model.safetensors" not in files
    assert ".gitattributes" in files
    assert make.same(zoo.load("hf://me/pets"), make.mini(1))


def test_a_commit_stays_what_it_is_and_cannot_be_saved_to(hub, make):
    make.mini(0).save("hf://me/pets")
    commit = hub.branches["main"]
    make.mini(1).save("hf://me/pets", overwrite=True)

    assert make.same(zoo.load(f"hf://me/pets@{commit}"), make.mini(0))
    assert make.same(zoo.load("hf://me/pets"), make.mini(1))
    with pytest.raises(BundleError, match="is a commit and cannot change"):
        make.mini(2).save(f"hf://me/pets@{commit}", overwrite=True)


def test_a_branch_that_moves_while_it_is_read_gives_the_commit_that_it_was(hub, make):
    make.mini(0).save("hf://me/pets")
    first = hub.branches["main"]
    make.mini(1).save("hf://me/pets", overwrite=True)
    second, hub.branches["main"] = hub.branches["main"], first

    def moves(path, data):
        if path == "zoo.json":
            hub.branches["main"] = second
        return data

    hub.spoil = moves

    assert make.same(zoo.load("hf://me/pets"), make.mini(0))
    assert make.same(zoo.load("hf://me/pets"), make.mini(1))


def test_someone_who_commits_meanwhile_is_not_overwritten(hub, make, monkeypatch):
    make.mini(0).save("hf://me/pets")
    before = HfApi.create_commit

    def late(self, *given, **named):
        hub.commits["a" * 40] = {**hub.commits[hub.branches["main"]], "other.txt": b"x"}
        hub.branches["main"] = "a" * 40
        return before(self, *given, **named)

    monkeypatch.setattr(HfApi, "create_commit", late)

    with pytest.raises(BundleError, match="someone else has changed it meanwhile"):
        make.mini(1).save("hf://me/pets", overwrite=True)
    assert make.same(zoo.load("hf://me/pets"), make.mini(0))


def test_a_flipped_byte_is_found_fetched_again_and_then_an_error(hub, make, shelf):
    make.mini().save("hf://me/pets")
    spoilt = []

    def once(path, data):
        if path.endswith("heads/pet/model.safetensors") and len(spoilt) < times:
            spoilt.append(path)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    hub.spoil, times = once, 3  # two look-ups and one download
    assert make.same(zoo.load("hf://me/pets"), make.mini())
    assert len(spoilt) == 3

    times = 10**6
    report = zoo.verify("hf://me/pets")
    assert [problem.split()[0] for problem in report.problems] == ["hf://me/pets/heads/pet/model.safetensors"]
    hub.spoil = lambda path, data: data + b"x" if path.endswith("README.md") else data
    assert "must have" in zoo.verify("hf://me/pets").problems[0]


def test_a_server_that_fails_for_a_while_is_asked_again(hub, make):
    make.mini().save("hf://me/pets")
    hub.faults[:] = [503, None, 500, None, 502]

    assert make.same(zoo.load("hf://me/pets"), make.mini())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hf://you/pets", "no such repository, or it is private"),
        ("hf://me/pets@nowhere", "no such branch, tag or commit"),
        ("hf://me/pets/nothing", "it has no zoo.json"),
    ],
)
def test_what_is_not_there_is_said_at_once(hub, url, words, make):
    with pytest.raises(BundleError, match=words):
        zoo.load(url)
    assert len(hub.log) <= 2
    if "you" in url:
        with pytest.raises(BundleError, match=words):
            make.mini().save(url)


def test_offline_nothing_stale_is_used_silently(hub, make, monkeypatch):
    make.mini().save("hf://me/pets")
    zoo.load("hf://me/pets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(BundleError, match=r"HF_HUB_OFFLINE is set.*What was downloaded from there before"):
        zoo.load("hf://me/pets")


def test_the_second_load_reads_the_manifest_alone(hub, make):
    make.mini().save("hf://me/pets")
    zoo.load("hf://me/pets")
    hub.log.clear()
    zoo.load("hf://me/pets")

    assert {path.rpartition("/")[2] for _, path in hub.log} == {"zoo.json"}
