"""The error fence, the streams and the log: what holds of every command."""

import io
import logging
import sys

import pytest

import zoo.catalog
from zoo.cli import main
from zoo.cli.output import clean, patient_streams, plain, say, speaks
from zoo.cli.streams import PatientStream
from zoo.errors import ConfigError

PAYLOADS = [
    "\x1b[31mred\x1b[0m",
    "[link=http://evil.example]click[/link]",
    "[bold]loud[/bold]",
    "two\nlines",
    "over\rwrite",
    "tab\tbell\x07",
    "\x9b31m c1",
    "right\u202eleft",
    "line\u2028separator",
    ":cat: [/]",
    "lone\udcffbyte",
    "zero\u200bwidth",
]
HARMFUL = set("\x1b\x9b\r\x07\u202e\u2028\u200b")


@pytest.fixture
def fails(monkeypatch):
    """Let every resolution raise something."""

    def with_error(error):
        def resolve(name):
            raise error

        monkeypatch.setattr(zoo.catalog, "resolve", resolve)
        monkeypatch.delitem(vars(zoo), "resolve", raising=False)

    yield with_error
    vars(zoo).pop("resolve", None)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["fit", "--help"], ["list", "-h"]])
def test_help_is_given_on_stdout(capsys, argv):
    assert main(argv) == 0

    captured = capsys.readouterr()
    assert "Usage: zoo" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    "name",
    ["list", "info", "resolve", "plugins", "fit", "evaluate", "predict", "verify", "demo", "doctor", "catalog build"],
)
def test_every_command_has_help_with_an_example(capsys, name):
    assert main([*name.split(), "--help"]) == 0

    assert f"zoo {name} " in capsys.readouterr().out.rpartition("╯")[2] + " "


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"zoo {zoo.__version__}\n"


def test_an_expected_error_is_one_line(capsys, fails):
    fails(ConfigError("The first line.\n  The second."))

    assert main(["resolve", "x"]) == 2
    assert capsys.readouterr() == ("", "error: The first line. The second.\n")


def test_an_unexpected_error_says_how_to_see_its_traceback(capsys, fails):
    fails(RuntimeError("it broke"))

    assert main(["resolve", "x"]) == 2
    hint = "(run again with --debug for the traceback)"
    assert capsys.readouterr() == ("", f"error: RuntimeError: it broke {hint}\n")


@pytest.mark.parametrize("error", [RuntimeError("it broke"), ConfigError("it broke")])
@pytest.mark.parametrize("argv", [["--debug", "resolve", "x"], ["resolve", "x", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, fails, error, argv):
    fails(error)

    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_an_interruption_ends_with_130(capsys, fails):
    fails(KeyboardInterrupt())

    assert main(["resolve", "x"]) == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


@pytest.mark.parametrize(("end", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("why"), 2)])
def test_a_library_that_exits_ends_the_command_only(capsys, fails, end, code):
    fails(end)

    assert main(["resolve", "x"]) == code


def test_the_log_is_shown_as_plain_lines_unless_quiet(capsys, monkeypatch):
    def resolve(name):
        logging.getLogger("zoo").info("%s read from %s", "all", "a\nb\x1b[31m")
        logging.getLogger("zoo").warning("beware")
        raise ConfigError("stop")

    monkeypatch.setattr(zoo, "resolve", resolve, raising=False)

    main(["resolve", "x"])
    loud = capsys.readouterr().err
    main(["resolve", "x", "--quiet"])
    quiet = capsys.readouterr().err
    assert loud == "all read from a\\nb\\x1b[31m\nwarning: beware\nerror: stop\n"
    assert quiet == "warning: beware\nerror: stop\n"
    assert not [one for one in logging.getLogger("zoo").handlers if isinstance(one, logging.StreamHandler)]


def test_what_a_library_prints_does_not_reach_stdout(capsys):
    @speaks
    def command() -> None:
        print("noise")
        say("result")

    command()

    assert capsys.readouterr() == ("result\n", "noise\n")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_comes_from_outside_is_made_harmless(capsys, payload):
    main(["resolve", f"timm:{payload}"])
    main(["list", payload])
    main(["info", f"hf:a/{payload}"])

    captured = capsys.readouterr()
    for text in (captured.out, captured.err, clean(payload)):
        assert not HARMFUL & set(text)
    assert "\n" not in clean(payload)
    if "[" in payload and "\x1b" not in payload:
        assert payload in captured.out  # markup is shown as it is


def test_writing_systems_stay_as_they_are():
    told = "Кошка 猫 می\u200cخواهم café 👩\u200d🔬"

    assert clean(told) == told


def test_json_keeps_what_people_wrote_and_no_number_that_is_none():
    assert plain({"a": (1, float("nan")), "b": {float("inf")}, 3: None}) == {"a": [1, None], "b": [None], "3": None}


class Gone(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def test_a_closed_pipe_is_no_failure():
    stream = PatientStream(Gone(BrokenPipeError()))

    assert stream.write("text") == 4
    assert stream.failure is None


def test_a_full_disk_is_a_failure(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Gone(OSError(28, "No space left on device")))
    monkeypatch.setattr(sys, "stderr", err)

    with patient_streams() as failed:
        say("text")

    assert failed()
    assert err.getvalue() == "error: The output cannot be written: No space left on device.\n"


def test_a_narrow_encoding_gets_escapes():
    raw = io.BytesIO()
    stream = PatientStream(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("a → b … é\n")
    stream.flush()

    assert raw.getvalue() == b"a -> b ... \\xe9\n"


def test_a_process_without_streams_still_runs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    assert main(["--version"]) == 0
    assert main(["resolve"]) == 2
