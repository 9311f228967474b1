"""``zoo find-lr``."""

import pytest

TINY = ("--backbone", "timm:test_resnet", "--weights", "none", "--steps", "20", "--batch-size", "8")


@pytest.mark.slow
def test_a_rate_is_suggested_and_all_of_the_search_is_json(zoo, pets):
    told = zoo("find-lr", pets, *TINY, "--method", "feature_extraction", "--highest", "0.1", "--json").json
    said = zoo("find-lr", pets, *TINY, "--method", "feature_extraction", "--highest", "0.1")

    assert told["rates"][0] == 1e-6
    assert len(told["rates"]) == len(told["losses"]) == len(told["smoothed"])
    assert said.code == 0
    assert said.out.startswith(f"--lr {told['suggestion']:.2g}, where the loss fell fastest.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lowest", "2"), "The rates must rise from above 0"),
        (("--freeze", "s9"), "no stage 's9'"),
        (("--head", "classifier", "--target", "label"), "leave --target out"),
        (("--steps", "3"), "--steps"),
    ],
)
def test_what_makes_no_search_is_wrong_usage(zoo, pets, options, words):
    result = zoo("find-lr", pets, *TINY, *options)

    assert result.code == 2
    assert words in result.err
