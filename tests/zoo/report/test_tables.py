"""Tables of metrics, as a terminal shows them."""

import io

from rich.console import Console

from zoo.report.tables import metrics_table


def shown(title, runs):
    console = Console(width=100, file=io.StringIO())
    console.print(metrics_table(title, runs))
    return console.file.getvalue()


def test_runs_stand_side_by_side_and_a_missing_metric_is_a_dash():
    text = shown(
        "test metrics",
        {"first": {"kind": {"balanced_accuracy": 0.98765}}, "second": {"kind": {"balanced_accuracy": 0.5, "f1": 0.25}}},
    )

    lines = [line.split() for line in text.splitlines()]
    assert any(line[1:4] == ["kind", "│", "balanced"] and "0.9877" in line and "0.5000" in line for line in lines)
    assert any("f1" in line and "–" in line and "0.2500" in line for line in lines)


def test_names_are_shown_as_they_are_whatever_markup_they_hold():
    text = shown("[bold]title", {"[red]run": {"[b]task[/b]": {"[i]metric": 1.0}}})

    for name in ("[bold]title", "[red]run", "[b]task[/b]", "[i]metric"):
        assert name in text
