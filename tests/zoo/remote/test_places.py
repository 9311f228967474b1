"""Addresses, what of them is shown, the cache, and file systems: this machine's, an object store's, none."""

import base64
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pytest

import zoo
from zoo.errors import BundleError, ZooError
from zoo.remote import is_url, retrying, shown
from zoo.remote.address import Address, Repository, at_home, elsewhere


@pytest.mark.parametrize(
    "path", ["pets", "./pets", "/data/pets", "C:\\pets", "C:/pets", "C://pets", "hf:resnet", "a:b"]
)
def test_a_path_is_never_taken_for_a_url(path):
    assert not is_url(path)
    assert elsewhere(path) is None
    assert at_home(path) == path
    assert not is_url(Path(path))


@pytest.mark.parametrize(
    "url", ["s3://b/pets", "S3://b/pets", "http://h", "hf://a/b", "abfs://c@a.net/x", "memory://x"]
)
def test_a_url_is_a_scheme_and_two_slashes(url):
    assert is_url(url)
    assert elsewhere(url).scheme == url.partition(":")[0].lower()


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://me:secret@host:8080/pets/", "https://host:8080/pets"),
        ("https://host/pets?token=secret#secret", "https://host/pets"),
        ("s3://key:sec/ret@bucket/pets", "s3://bucket/pets"),
        ("hf://me/pets@v1.0", "hf://me/pets@v1.0"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("my/folder@home", "my/folder@home"),
    ],
)
def test_what_is_shown_of_a_url_has_no_password_and_no_query(url, seen):
    assert shown(url) == seen
    if is_url(url):
        assert "secret" not in repr(Address.of(url))
        assert Address.of(url).shown == seen


@pytest.mark.parametrize("url", ["s3://", "s3:///", "s3://a b", "s3://a\nb", "http://\x00"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(BundleError, match="URL must be like"):
        zoo.load(url)


ODD = (
    *("http://[::1", "http://[bad]/x", "http://127.0.0.1:port/x", "http://127.0.0.1:99999/x", "http://%zz/x"),
    *("http://127.0.0.1:1/\udcff", "memory://\udcff", "hf://me/\udcff", "file://\udcff", "s3://\udcff"),
    *("http://:80", "http://@", "http://?x", "s3://@@@", "hf://@", "memory://a::b", "memory://../../x", "zip://x"),
    *("http://" + "x" * 100_000, "dir://x", "reference://x", "cached://x", "data://x", "git://x", "jlab://x"),
)


@pytest.mark.parametrize("url", ODD, ids=range(len(ODD)))
def test_whatever_stands_in_a_url_the_end_is_a_clean_error(url, make, monkeypatch):
    monkeypatch.setattr(retrying, "ATTEMPTS", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # where nobody answers
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ZooError) as caught:
        zoo.load(url)
    assert "\n" not in str(caught.value)
    if "memory" not in url:
        with pytest.raises(ZooError):
            make.mini().save(url)


def test_a_file_url_is_a_path_on_this_machine(bundle, make, tmp_path):
    assert at_home("file:///data/my%20pets") == "/data/my pets"
    assert at_home("file://localhost/data/pets") == "/data/pets"
    assert make.same(zoo.load(bundle.as_uri()), zoo.load(bundle))
    assert zoo.verify(bundle.as_uri()).ok
    saved = zoo.load(bundle).save((tmp_path / "copy").as_uri())
    assert saved == tmp_path / "copy"
    assert make.contents(saved).keys() == make.contents(bundle).keys()
    with pytest.raises(BundleError, match="this machine"):
        zoo.load("file://elsewhere/data/pets")


def test_the_message_of_a_wrong_path_is_as_it_was(tmp_path):
    with pytest.raises(BundleError, match=f"^There is no bundle at {tmp_path}/pets; give the folder that zoo.save"):
        zoo.load(tmp_path / "pets")
    for wrong in (None, 3, b"pets", ""):
        with pytest.raises(BundleError, match="path must be a str or a Path"):
            zoo.load(wrong)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://me/pets", Repository("me/pets")),
        ("hf://me/pets@v1", Repository("me/pets", revision="v1")),
        ("hf://me/pets/a/b", Repository("me/pets", "a/b")),
        ("hf://me/pets/a/b@refs/pr/1", Repository("me/pets", "a/b", "refs/pr/1")),
    ],
)
def test_a_repository_has_a_name_a_folder_and_a_revision(url, expected):
    assert Repository.of(Address.of(url)) == expected


@pytest.mark.parametrize(
    "url", ["hf://me", "hf://datasets/me/pets", "hf://me/../x", "hf://me/pets@", "hf://me/p@a/../b"]
)
def test_what_is_no_repository_of_a_model_is_refused(url):
    with pytest.raises(BundleError):
        zoo.load(url)


def test_an_unknown_scheme_names_the_nearest_and_a_missing_package_how_to_install_it(monkeypatch):
    with pytest.raises(BundleError, match="'s4'"):
        zoo.load("s4://bucket/pets")
    with pytest.raises(BundleError, match="did you mean memory"):
        zoo.load("memori://pets")
    for module in ("s3fs", "gcsfs", "aiohttp"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for scheme, package in (("s3", r"'headzoo\[s3\]'"), ("gs", "gcsfs"), ("https", "aiohttp")):
        monkeypatch.delitem(sys.modules[fsspec.get_filesystem_class.__module__]._registry, scheme, raising=False)
        with pytest.raises(BundleError, match=f"^{scheme}://host/pets needs a package .* pip install {package}.$"):
            zoo.load(f"{scheme}://host/pets")


def test_no_password_is_in_a_message_or_in_the_cache(server, served, shelf):
    secrets = ("hunter2x", "tok3nvalue")
    url = served.replace("://", "://me:hunter2x@") + "?token=tok3nvalue"
    zoo.load(url)
    told = []
    for status in (403, 500, 302):
        server.fault = lambda handler, place, start, data, status=status: (
            handler.answer(status, b"", {"Location": "ftp://x/tok3nvalue"}) is None
        )
        with pytest.raises(BundleError) as caught:
            zoo.load(url)
        error = caught.value
        while error is not None:
            told.append(str(error))
            error = error.__cause__ or error.__context__
    server.shutdown()
    server.server_close()
    with pytest.raises(BundleError) as caught:
        zoo.load(url)
    told += [str(caught.value), repr(zoo.verify(url))]

    path, _, headers, asked = server.log[0]
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:hunter2x").decode()
    assert (path, asked) == ("/pets/zoo.json", "/pets/zoo.json?token=tok3nvalue")
    files = [file for file in shelf.root.rglob("*") if file.is_file()]
    kept = [data for file in files for data in (file.read_bytes(), str(file).encode())]
    assert [text for text in told for secret in secrets if secret in text] == []
    assert [data for data in kept for secret in secrets if secret.encode() in data] == []


def test_without_a_network_an_earlier_download_is_offered_and_not_used(server, served, shelf, bundle, make):
    zoo.load(served)
    server.shutdown()
    server.server_close()

    with pytest.raises(BundleError, match=r"cannot be read.*What was downloaded.*zoo\.load\('(.*)'\)") as caught:
        zoo.load(served)

    folder = str(caught.value).rpartition("zoo.load('")[2].removesuffix("').")
    assert make.same(zoo.load(folder), zoo.load(bundle))
    with pytest.raises(BundleError) as caught:
        zoo.load(served + "/other")
    assert "downloaded" not in str(caught.value)


def test_a_file_that_the_disk_has_spoilt_is_fetched_again(server, served, shelf, make, bundle):
    zoo.load(served)
    (identity,) = [path for path in shelf.root.iterdir() if len(path.name) == 64]
    file = identity / "backbones/main/model.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    server.log.clear()

    assert make.same(zoo.load(served), zoo.load(bundle))
    asked = [entry[0].removeprefix("/pets/") for entry in server.log]
    assert asked == ["zoo.json", "zoo.json", "backbones/main/model.safetensors"]


def test_a_bundle_that_cannot_be_rebuilt_is_told_with_its_url_and_fetched_once(server, served):
    from zoo.registry import registry

    registry().claims.pop("mini")

    with pytest.raises(BundleError, match=f"^{served} cannot be loaded: .*needs the plugin 'mini' of zoo-mini"):
        zoo.load(served)
    assert [entry[0] for entry in server.log].count("/pets/zoo.json") == 1


def test_verify_reads_every_byte_anew_and_finds_what_is_wrong(server, served, shelf):
    assert zoo.verify(served, run=True).ok
    zoo.load(served)
    server.log.clear()
    assert zoo.verify(served).ok
    assert len(server.log) == len(server.files)

    for name in ("/pets/README.md", "/pets/heads/pet/model.safetensors"):
        server.files[name] = server.files[name][:-1] + bytes([server.files[name][-1] ^ 1])
    server.files.pop("/pets/config.json")
    report = zoo.verify(served)

    assert not report.ok
    assert report.path == served
    assert [problem.split()[0].removeprefix(served) for problem in report.problems] == [
        "/README.md",
        "/config.json",
        "/heads/pet/model.safetensors",
    ]


def test_the_cache_folder_that_cannot_be_written_is_a_clean_error(server, served, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    with pytest.raises(BundleError, match=r"file/remote cannot be written: Not a directory\.$"):
        zoo.load(served)


def test_a_disk_that_takes_no_more_is_a_clean_error_and_no_reason_to_ask_again(server, served, shelf):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))  # the largest file has some more bytes
    try:
        with pytest.raises(BundleError) as caught:
            zoo.load(served)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert re.fullmatch(r".*/remote cannot be written: File too large\.", str(caught.value))
    assert max(Counter(entry[0] for entry in server.log).values()) <= 2
    zoo.load(served)


@pytest.mark.slow
def test_a_folder_on_this_machine_needs_no_fsspec(bundle):
    code = f"""
import sys, zoo
assert zoo.verify({str(bundle)!r}).ok
try:
    zoo.load({str(bundle)!r})
except zoo.BundleError as error:
    assert "needs the plugin 'mini'" in str(error), error
found = {{name for name in sys.modules if name.startswith(("fsspec", "aiohttp", "zoo.remote."))}}
print(sorted(found - {{"zoo.remote.address", "zoo.remote.alike", "zoo.remote.loading"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the library warns of itself when it is first imported
def test_a_signature_is_fetched_where_it_is_asked_for(server, served, bundle, tmp_path):
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pems = []
    for name in ("mine", "other"):
        private = ec.generate_private_key(ec.SECP256R1())
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (tmp_path / name).write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        pems.append(tmp_path / f"{name}.pub")
        pems[-1].write_bytes(public)
    assert "is not signed" in zoo.verify(served, key=pems[0]).problems[0]
    server.files["/pets/model.sig"] = zoo.sign(bundle, key=tmp_path / "mine").read_bytes()
    server.log.clear()

    report = zoo.verify(served, key=pems[0])

    assert (report.ok, report.signed) == (True, True)
    assert server.log[-1][0] == "/pets/model.sig"
    assert zoo.verify(served, key=pems[1]).signed is False
    server.files.pop("/pets/model.sig")
    assert zoo.verify(served, key=pems[0]).signed is False
    server.files["/pets/model.sig"] = bytes(2**24 + 1)
    assert zoo.verify(served, key=pems[0]).signed is False
    server.log.clear()
    assert zoo.verify(served).ok
    assert "/pets/model.sig" not in [entry[0] for entry in server.log]
