"""The optimizer's groups: each parameter that trains in exactly one, with its own rate."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo.training.planning.groups import check_groups, outlines, parameter_groups, slots, stage_of, trained_names
from zoo.training.planning.optimizers import make_optimizer

STAGES = ("stem", "s1", "s2", "s3", "s4", "post")


def plan(epochs=4, **lr):
    """Make a plan from rates by epoch: a number, or one an epoch; 0 is frozen, and a stage not named rests."""
    states = []
    for epoch in range(epochs):
        rates = {stage: 0.0 for stage in STAGES} | {"heads": 1e-2}
        rates |= {stage: rate[epoch] if isinstance(rate, tuple) else rate for stage, rate in lr.items()}
        named = {stage if stage == "heads" else f"main.{stage}": rate for stage, rate in rates.items()}
        states.append({stage: StageState(trainable=rate > 0, lr=rate) for stage, rate in named.items()})
    return Plan(tuple(states))


def everything():
    return plan(**dict.fromkeys(STAGES, 1e-3))


# --- groups


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit"])
@pytest.mark.parametrize("method", ["fine_tuning", "feature_extraction"])
def test_every_parameter_that_trains_is_in_exactly_one_group(model, backbone, method):
    one = model(backbone=backbone)
    chosen = registry().method_class(method)()
    made = chosen.plan(outlines(one), epochs=3, lr=1e-3)

    groups = parameter_groups(one, made, weight_decay=0.1)

    grouped = [id(p) for group in groups for p in group["params"]]
    expected = one.parameters() if method == "fine_tuning" else one.heads.parameters()
    assert sorted(grouped) == sorted(id(p) for p in expected)


def test_each_stage_has_its_real_learning_rate(model):
    groups = parameter_groups(model(), plan(s4=1e-3, s3=(0, 0, 1e-4, 5e-5)), weight_decay=0.1)

    optimizer = torch.optim.AdamW(groups)

    found = {(group["stage"], group["lr"]) for group in optimizer.param_groups}
    assert found == {("heads", 1e-2), ("main.s4", 1e-3), ("main.s3", 1e-4)}


def test_vectors_have_no_weight_decay_and_matrices_have(model):
    for group in parameter_groups(model(), everything(), weight_decay=0.1):
        ranks = {p.ndim > 1 for p in group["params"]}

        assert len(ranks) == 1
        assert group["weight_decay"] == (0.1 if ranks == {True} else 0.0)


def test_stages_that_a_later_epoch_unfreezes_have_their_groups_from_the_start(model):
    one = model()
    late = parameter_groups(one, plan(s4=(0, 0, 0, 1e-3)), weight_decay=0.1)
    early = parameter_groups(one, plan(s4=1e-3), weight_decay=0.1)

    assert [group["stage"] for group in late] == [group["stage"] for group in early]
    assert [len(group["params"]) for group in late] == [len(group["params"]) for group in early]


def test_a_plan_that_forgets_a_stage_is_refused(model):
    states = {stage: state for stage, state in everything().at(0).items() if stage != "main.s3"}

    with pytest.raises(ConfigError, match=r"does not say what main\.s3 does, to which backbones\.main\.native\.layer3"):
        parameter_groups(model(), Plan((states,)), weight_decay=0.1)


def test_a_plan_that_trains_nothing_is_refused(model):
    nothing = Plan(({stage: FROZEN for stage in everything().stages()},))

    with pytest.raises(ConfigError, match="trains nothing of this model"):
        parameter_groups(model(), nothing, weight_decay=0.1)


def test_every_tensor_of_a_model_has_a_stage(model):
    one = model()
    stages = {stage_of(one, name) for name in one.state_dict()}

    assert stages <= {f"main.{stage}" for stage in STAGES} | {"heads"}
    assert stage_of(one, "backbones.main.native.layer3.0.bn1.running_var") == "main.s3"
    assert stage_of(one, "heads.kind.layers.1.weight") == "heads"


def test_what_training_may_change_is_all_but_the_stages_that_stay_frozen(model):
    one = model()

    names = trained_names(one, plan(s4=(0, 0, 0, 1e-3)))

    assert {stage_of(one, name) for name in names} == {"heads", "main.s4"}
    assert any("running_mean" in name for name in names)


# --- what the library wants no decay on


def test_position_embeddings_and_class_tokens_of_timm_have_no_weight_decay(model):
    one = model(backbone="timm:test_vit")

    groups = parameter_groups(one, everything(), weight_decay=0.1)

    names = {id(p): name for name, p in one.named_parameters()}
    bare = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    native = one.backbones["main"].native
    listed = {f"backbones.main.native.{name}" for name in native.no_weight_decay()} & set(names.values())
    assert {"backbones.main.native.pos_embed", "backbones.main.native.cls_token"} <= listed <= bare
    assert bare == {name for name, p in one.named_parameters() if p.ndim < 2} | listed


def test_a_backbone_whose_library_lists_nothing_decays_all_matrices(model):
    one = model()

    assert one.backbones["main"].undecayed() == frozenset()
    decayed = [
        p for g in parameter_groups(one, everything(), weight_decay=0.1) if g["weight_decay"] for p in g["params"]
    ]
    assert len(decayed) == sum(p.ndim > 1 for p in one.parameters())


# --- blocks and parts


def test_each_block_has_its_real_learning_rate(model):
    one = model(backbone="timm:test_vit")
    states = {stage: StageState(True, 1e-2, decay=0.5) for stage in (f"main.{name}" for name in STAGES)}
    groups = parameter_groups(one, Plan(({**states, "heads": StageState(True, 1.0)},)), weight_decay=0.1)

    names = {id(p): name for name, p in one.named_parameters()}
    rate = {names[id(p)]: group["lr"] for group in torch.optim.AdamW(groups).param_groups for p in group["params"]}
    found = [rate[f"backbones.main.native.blocks.{at}.attn.qkv.weight"] for at in range(6)]
    assert found == [5e-3, 1e-2, 1e-2, 1e-2, 5e-3, 1e-2]  # stages of 2, 1, 1 and 2 blocks
    assert rate["backbones.main.native.blocks.0.norm1.bias"] == 5e-3


def test_where_biases_alone_train_no_weight_is_in_a_group(model):
    one = model()
    states = {f"main.{name}": StageState(True, 1e-2, train="biases") for name in STAGES}
    made = Plan(({**states, "heads": StageState(True, 1.0)},))

    groups = parameter_groups(one, made, weight_decay=0.1)

    names = {id(p): name for name, p in one.named_parameters()}
    grouped = {names[id(p)] for group in groups for p in group["params"]}
    biases = {name for name, _ in one.backbones.named_parameters(prefix="backbones") if name.endswith(".bias")}
    assert grouped == biases | {name for name, _ in one.named_parameters() if name.startswith("heads.")}
    assert all(group["weight_decay"] == 0 for group in groups if group["stage"] != "heads")
    assert biases <= set(trained_names(one, made))
    assert not any(name.endswith("conv1.weight") for name in trained_names(one, made))


def test_a_bias_that_trains_alone_first_and_with_the_weights_later_has_one_group_and_the_highest_rate(model):
    one = model()
    first = {f"main.{name}": StageState(True, 1e-2, train="biases") for name in STAGES}
    later = {f"main.{name}": StageState(True, 1e-3) for name in STAGES}
    heads = {"heads": StageState(True, 1.0)}

    groups = parameter_groups(one, Plan(({**first, **heads}, {**later, **heads})), weight_decay=0.1)

    found = {(group["part"], group["lr"]) for group in groups}
    assert found == {("biases", 1e-2), ("weights", 1e-3), ("all", 1.0)}


@cache
def small(reference):
    return zoo.build(reference, zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)


def state():
    trained = st.builds(
        StageState,
        trainable=st.just(True),
        lr=st.floats(1e-6, 10),
        train=st.sampled_from(["all", "biases"]),
        decay=st.floats(0.1, 1.0),
    )
    return st.one_of(st.just(FROZEN), trained)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"]), st.integers(1, 3))
def test_in_any_plan_each_parameter_that_trains_is_in_exactly_one_group_of_its_rate(data, reference, epochs):
    one = small(reference)
    stages = [f"main.{stage.name}" for stage in outlines(one)["main"].stages]
    made = Plan(
        tuple({stage: data.draw(state()) for stage in stages} | {"heads": StageState(True, 1.0)} for _ in range(epochs))
    )

    groups = parameter_groups(one, made, weight_decay=0.1)

    homes = {}
    for group in groups:
        for parameter in group["params"]:
            homes.setdefault(id(parameter), []).append(group)
    places = slots(one, made)
    for name, parameter in one.named_parameters():
        states = made.states_of(stage_of(one, name))
        chosen = [s for s in states if s.trainable and (s.train == "all" or name.endswith(".bias"))]
        assert len(homes.get(id(parameter), [])) == bool(chosen or name.startswith("heads."))
        if chosen and not name.startswith("heads."):
            place = places[name]
            assert homes[id(parameter)][0]["lr"] == max(s.lr_of(place.block, place.blocks) for s in chosen)


# --- an optimizer that is another's


def test_an_optimizer_with_the_groups_that_it_was_given_is_taken(model):
    one = model()
    groups = parameter_groups(one, everything(), weight_decay=0.1)

    check_groups(one, make_optimizer("sgd", groups, {"momentum": 0.9}).param_groups, groups)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda groups: groups[1:], r"backbones\.main\.native\.conv1\.0\.weight is in 0; give it"),
        (
            lambda groups: [{"params": [p for group in groups for p in group["params"]], "lr": 1e-3}],
            r"in one whose stage is None instead of 'main\.stem'",
        ),
        (lambda groups: [{**group, "lr": 0.5} for group in groups], r"whose lr is 0\.5 instead of 0\.001"),
    ],
)
def test_an_optimizer_that_leaves_out_or_changes_a_group_is_refused(model, change, sentence):
    one = model()
    groups = parameter_groups(one, everything(), weight_decay=0.1)
    made = make_optimizer(lambda given: torch.optim.SGD(change(given)), groups, {})

    with pytest.raises(ConfigError, match=sentence) as caught:
        check_groups(one, made.param_groups, groups)

    assert "\n" not in str(caught.value)


def test_an_optimizer_of_what_never_trains_is_refused(model):
    one = model()
    groups = parameter_groups(one, plan(s4=1e-3), weight_decay=0.1)
    stem = next(one.backbones["main"].native.parameters())

    with pytest.raises(ConfigError, match=r"trains backbones\.main\.native\.conv1\.0\.weight, which the method never"):
        check_groups(one, [*groups, {"params": [stem]}], groups)
