"""``zoo list``, ``zoo info`` and ``zoo resolve``."""

import pytest


def test_list_shows_one_line_a_backbone_under_a_head(zoo):
    result = zoo("list", "mobilenetv3", "--provider", "timm")

    lines = result.out.splitlines()
    large = ["timm:mobilenetv3_large_100", "4.2", "1280", "224", "ra_in1k", "+3", "apache-2.0"]
    assert result.code == 0
    assert lines[0].split() == ["name", "params", "M", "width", "size", "tags", "licence"]
    assert any(line.split() == large for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_list_gives_json_that_holds_what_the_table_leaves_out(zoo):
    found = zoo("list", "test_resnet", "--json").json

    assert [one["reference"] for one in found] == ["timm:test_resnet"]
    assert found[0]["parameters"] == 372688
    assert found[0]["size"] == [160, 160]
    assert found[0]["licenses"] == {"r160_in1k": "apache-2.0"}


def test_every_filter_leaves_out_what_does_not_fit(zoo):
    argv = ("--needs", "maps", "--needs", "dynamic_size", "--max-params", "500k", "--pretrained")
    found = zoo("list", "timm:*", *argv, "--license", "APACHE*", "--modality", "image", "--json").json

    assert found
    for one in found:
        assert one["provider"] == "timm"
        assert {"maps", "dynamic_size"} <= set(one["capabilities"])
        assert one["parameters"] <= 500_000
        assert one["tags"]
        assert any(text.startswith("apache") for text in one["licenses"].values())


def test_a_pattern_without_stars_finds_every_name_that_contains_it(zoo):
    inside = zoo("list", "dinov2", "--provider", "timm", "--json").json
    begins = zoo("list", "dinov2*", "--provider", "timm", "--json").json

    assert len(inside) > 3
    assert begins == []


def test_a_limit_shows_the_first_and_says_how_many_there_are(zoo):
    result = zoo("list", "resnet", "--limit", "2")

    assert len(result.out.splitlines()) == 3
    assert result.err.startswith("2 of ")


def test_a_list_without_a_match_is_empty_and_no_error(zoo):
    plain, told = zoo("list", "no_such_thing"), zoo("list", "no_such_thing", "--json")

    assert (plain.code, plain.out, plain.err) == (0, "", "No backbone matches.\n")
    assert (told.code, told.json) == (0, [])


@pytest.mark.parametrize(
    ("argv", "fits"),
    [
        (["--tag", "in22k"], lambda one: any("in22k" in tag for tag in one["tags"])),
        (["--tag", "*_in22k"], lambda one: any(tag.endswith("_in22k") for tag in one["tags"])),
        (["--size", "256x128"], lambda one: one["size"] == [256, 128]),
        (["--size", "288"], lambda one: one["size"] == [288, 288]),
        (["--max-size", "160"], lambda one: one["size"] and max(one["size"]) <= 160),
        (["--min-params", "600M"], lambda one: (one["parameters"] or 0) >= 6e8),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "expected",
)
def test_a_filter_agrees_with_what_is_listed_without_it(zoo, argv, fits):
    everything = zoo("list", "--json").json
    found = zoo("list", *argv, "--json").json

    names = {(one["provider"], one["name"]) for one in found}
    assert names == {(one["provider"], one["name"]) for one in everything if fits(one)}
    assert names or argv == ["--size", "256x128"]


def test_a_line_shows_the_tag_that_was_asked_for_and_its_licence(zoo):
    found = zoo("list", "timm:convnext_base", "--tag", "*in22k", "--json").json[0]

    tag = found["reference"].partition(".")[2]
    assert tag.endswith("in22k")
    assert tag != found["tags"][0]
    line = zoo("list", "timm:convnext_base", "--tag", "*in22k").out.splitlines()[1].split()
    assert (line[0], line[-3], line[-1]) == (found["reference"], tag, found["licenses"][tag])


def test_lines_can_be_sorted_by_parameters(zoo):
    counts = [one["parameters"] for one in zoo("list", "--sort", "parameters", "--json").json]

    known = [count for count in counts if count is not None]
    assert known == sorted(known)
    assert counts[: len(known)] == known


def test_an_empty_list_hints_at_what_there_is(zoo):
    result = zoo("list", "--license", "gpl*")

    assert (result.code, result.out) == (0, "")
    assert "No weights have a licence like 'gpl*'; those that are stated: " in result.err
    assert "apache-2.0" in result.err


def test_info_says_why_a_name_is_not_served(zoo):
    result = zoo("info", "torchvision:raft_large")

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: torchvision:raft_large is not served: ")


@pytest.mark.parametrize(("flag", "name"), [("--heads", "classifier"), ("--methods", "fine_tuning")])
def test_heads_and_methods_are_listed_with_plugin_and_summary(zoo, flag, name):
    plain, told = zoo("list", flag), zoo("list", name, flag, "--json")

    assert name in plain.out
    assert [one["name"] for one in told.json] == [name]
    assert told.json[0]["distribution"] == "headzoo"
    assert len(told.json[0]["summary"]) > 10


def test_info_says_what_a_name_means_and_what_the_catalog_knows(zoo):
    result = zoo("info", "timm:mobilenetv3")

    assert result.code == 0
    assert "timm:mobilenetv3_large_100.ra_in1k" in result.out
    assert "ra_in1k (apache-2.0)" in result.out


def test_info_in_json_has_the_whole_spec_only_if_it_is_asked_for(zoo):
    short, full = (
        zoo("info", "timm:test_resnet", "--json").json,
        zoo("info", "timm:test_resnet", "--spec", "--json").json,
    )

    assert short["entry"]["pooled_dim"] == 96
    assert "spec" not in short
    assert full["spec"]["pooled_dim"] == 96
    assert [stage["name"] for stage in full["spec"]["stages"]] == ["stem", "s1", "s2", "s3", "s4", "post"]


def test_info_writes_the_spec_for_a_reader(zoo):
    result = zoo("info", "timm:test_resnet", "--spec")

    assert result.code == 0
    assert "stages" in result.out
    assert "layer4" in result.out


def test_info_knows_that_a_hub_id_is_not_in_the_catalog(zoo):
    plain, told = zoo("info", "hf:someone/something"), zoo("info", "hf:someone/something", "--json")

    assert "--spec asks the provider" in plain.out
    assert told.json["entry"] is None
    assert told.json["how"] == "as given"


def test_resolve_gives_the_full_reference_and_the_reason(zoo):
    plain, told = zoo("resolve", "timm:mobilenetv3"), zoo("resolve", "timm:mobilenetv3", "--json")

    assert plain.out.splitlines()[0] == "timm:mobilenetv3 → timm:mobilenetv3_large_100.ra_in1k (alias)"
    assert told.json["reference"] == "timm:mobilenetv3_large_100.ra_in1k"
    assert told.json["how"] == "alias"
    assert told.json["why"]
