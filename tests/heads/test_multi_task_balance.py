"""Balanced tasks beside the papers' formulas, worked out by hand on two or three heads over one shared layer."""

import math

import pytest
import torch
from torch import nn

from zoo.contracts.features import Features
from zoo.contracts.head import Head
from zoo.contracts.sharing import Shared
from zoo.errors import ConfigError
from zoo.testing import check_head

WIDTH = 6
KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b", "c"]}
AGE = {"type": "regression", "name": "age"}
SIZE = {"type": "regression", "name": "size"}
ROWS = 12


class Problem:
    """A shared layer under a multi-task head, with targets of every task."""

    def __init__(self, make, heads, seed=0, dtype=torch.float64, **config):
        self.head = make("multi_task", "all", heads=heads, **config).to(dtype).train()
        torch.manual_seed(seed)
        self.layer = nn.Linear(4, WIDTH, dtype=dtype)
        self.inputs = torch.randn(ROWS, 4, dtype=dtype)
        self.targets = {
            name: torch.randint(3, (ROWS,)) if name == "kind" else torch.randn(ROWS) for name in self.head.tasks()
        }

    @property
    def shared(self):
        return Shared({"main": list(self.layer.parameters())})

    def plain(self):
        """Give the losses as they are without balance."""
        outputs = self.head({"main": Features(pooled=self.layer(self.inputs))})
        return self.head.losses(outputs, self.targets)

    def losses(self):
        return self.head.balance(self.plain(), self.targets, self.shared)

    def miss(self, name):
        self.targets[name] = self.head.tasks()[name].encode([None] * ROWS)

    def gradients(self):
        """Give each task's own gradient by the shared layer, as one vector each."""
        losses = self.plain()
        found = {}
        for name, loss in losses.items():
            parts = torch.autograd.grad(loss, list(self.layer.parameters()), retain_graph=True)
            found[name] = torch.cat([part.flatten() for part in parts])
        return found

    def stepped(self):
        """Go backward through the balanced sum; give the gradient by the shared layer."""
        for parameter in [*self.layer.parameters(), *self.head.parameters()]:
            parameter.grad = None
        sum(self.losses().values()).backward()
        return torch.cat([parameter.grad.flatten() for parameter in self.layer.parameters()])


def values(losses):
    return {name: loss.item() for name, loss in losses.items()}


# --- uncertainty


def test_uncertainty_adds_up_as_kendall_has_it_with_a_half_for_numbers(make):
    problem = Problem(make, [KIND, AGE], balance="uncertainty", balance_speed=4.0)
    s = {"kind": 0.7, "age": -0.4}
    with torch.no_grad():
        problem.head.balancing.slow.copy_(torch.tensor([s["kind"], s["age"]]) / 4)

    alone, found = values(problem.plain()), problem.losses()

    assert found["kind"].item() == pytest.approx(math.exp(-0.7) * alone["kind"] + 0.35)
    assert found["age"].item() == pytest.approx(0.5 * math.exp(0.4) * alone["age"] - 0.2)
    assert problem.head.task_weights() == pytest.approx({"kind": math.exp(-0.7), "age": 0.5 * math.exp(0.4)})


def test_the_log_variance_gets_the_gradient_of_the_formula_and_steps_at_its_own_rate(make):
    problem = Problem(make, [KIND, AGE], balance="uncertainty", balance_speed=4.0)
    alone = values(problem.plain())
    slow = problem.head.balancing.slow

    problem.stepped()
    torch.optim.SGD([slow], lr=0.1).step()

    gradient = [0.5 - alone["kind"], 0.5 - 0.5 * alone["age"]]
    assert slow.grad.tolist() == pytest.approx(gradient)
    assert problem.head.balancing.log_variances().tolist() == pytest.approx([-4 * 0.1 * one for one in gradient])


def test_uncertainty_weighs_the_gradients_of_the_shared_layer(make):
    problem = Problem(make, [KIND, AGE], balance="uncertainty")
    alone = problem.gradients()

    torch.testing.assert_close(problem.stepped(), alone["kind"] + 0.5 * alone["age"])


@pytest.mark.slow
def test_a_log_variance_comes_to_the_logarithm_of_its_tasks_loss(make):
    problem = Problem(make, [KIND, AGE], balance="uncertainty", balance_speed=1.0)
    slow, alone = problem.head.balancing.slow, values(problem.plain())
    optimizer = torch.optim.Adam([slow], lr=0.05)

    for _ in range(300):
        problem.stepped()
        optimizer.step()

    # where ∂/∂s (c e^-s L + s/2) = 0, e^s = 2cL
    assert slow.tolist() == pytest.approx([math.log(2 * alone["kind"]), math.log(alone["age"])], abs=1e-3)


def test_a_task_without_labels_adds_neither_loss_nor_price_and_stays_connected(make):
    problem = Problem(make, [KIND, AGE], balance="uncertainty")
    with torch.no_grad():
        problem.head.balancing.slow.fill_(0.1)
    problem.miss("age")

    losses = problem.losses()
    problem.stepped()

    assert losses["age"].item() == 0
    assert problem.head.balancing.slow.grad[1].item() == 0
    assert problem.head.balancing.slow.grad[0].item() != 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in problem.head.tasks()["age"].parameters())


# --- gradnorm


def by_hand_gradnorm(problem, first, alpha):
    """Algorithm 1 of the paper for W = the weight of the shared layer: the gradient of its L_grad by w."""
    losses = problem.plain()
    weights = torch.ones(len(losses), dtype=torch.float64, requires_grad=True)
    norms = []
    for weight, loss in zip(weights, losses.values(), strict=True):
        (gradient,) = torch.autograd.grad(weight * loss, [problem.layer.weight], create_graph=True)
        norms.append(gradient.norm())
    norms = torch.stack(norms)
    ratios = torch.stack([loss.detach() / first[name] for name, loss in losses.items()])
    target = (norms.mean() * (ratios / ratios.mean()) ** alpha).detach()
    (gradient,) = torch.autograd.grad((norms - target).abs().sum(), weights)
    return gradient, norms.mean().detach()


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_the_weights_of_gradnorm_get_the_papers_gradient_over_the_mean_norm(make, alpha):
    problem = Problem(make, [KIND, AGE, SIZE], balance="gradnorm", alpha=alpha)
    first = values(problem.plain())
    problem.stepped()
    with torch.no_grad():  # the tasks have learnt at different rates since
        for step, task in enumerate(problem.head.tasks().values()):
            for parameter in task.parameters():
                parameter.mul_(1 - 0.3 * step)

    problem.stepped()

    paper, mean = by_hand_gradnorm(problem, first, alpha)
    torch.testing.assert_close(problem.head.balancing.slow.grad, paper / mean)  # at w = 1, ∂/∂log w = ∂/∂w
    assert len(set(problem.head.balancing.slow.grad.sign().tolist())) == 2


def test_gradnorm_weighs_the_losses_and_keeps_its_own_out_of_them(make):
    problem = Problem(make, [KIND, AGE], balance="gradnorm", balance_speed=2.0)
    with torch.no_grad():
        problem.head.balancing.slow.copy_(torch.tensor([0.0, math.log(3.0) / 2]))
    alone, gradients = values(problem.plain()), problem.gradients()

    found = values(problem.losses())

    assert problem.head.task_weights() == pytest.approx({"kind": 0.5, "age": 1.5})
    assert found == pytest.approx({"kind": 0.5 * alone["kind"], "age": 1.5 * alone["age"]})
    torch.testing.assert_close(problem.stepped(), 0.5 * gradients["kind"] + 1.5 * gradients["age"])


def test_the_last_matrix_that_tasks_share_decides_not_what_one_of_them_has_for_itself(make):
    problem = Problem(make, [KIND, AGE], balance="gradnorm")
    before, after = nn.Linear(4, 4, dtype=torch.float64), problem.layer
    alone = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def losses():
        pooled = after(before(problem.inputs))
        outputs = problem.head.tasks()["kind"]({"main": Features(pooled=pooled)})
        outputs |= problem.head.tasks()["age"]({"main": Features(pooled=alone(pooled))})
        return problem.head.losses(outputs, problem.targets)

    plain = losses()
    norms = [torch.autograd.grad(loss, [after.weight], retain_graph=True)[0].norm() for loss in plain.values()]
    every = [*before.parameters(), *after.parameters(), *alone.parameters()]
    sum(problem.head.balance(losses(), problem.targets, Shared({"main": every})).values()).backward()

    mean = sum(norms) / 2
    expected = [((norm - mean).sign() * norm / mean).item() for norm in norms]
    assert problem.head.balancing.slow.grad.tolist() == pytest.approx(expected)


def test_first_losses_are_taken_once_each_when_a_task_has_labels_first(make):
    problem = Problem(make, [KIND, AGE], balance="gradnorm")
    labels, first = problem.targets["age"], values(problem.plain())
    problem.miss("age")
    problem.stepped()
    with torch.no_grad():
        problem.layer.weight.mul_(2)
    problem.targets["age"] = labels
    later = values(problem.plain())
    problem.stepped()

    assert later["kind"] != pytest.approx(first["kind"])
    assert problem.head.balancing.first.tolist() == pytest.approx([first["kind"], later["age"]])


def test_a_task_without_labels_keeps_its_weight_while_others_move(make):
    problem = Problem(make, [KIND, AGE, SIZE], balance="gradnorm")
    problem.miss("age")

    problem.stepped()

    assert problem.head.balancing.slow.grad[1].item() == 0
    assert problem.head.balancing.slow.grad[0].item() != 0
    assert problem.head.balancing.slow.grad[2].item() != 0


def test_a_task_that_reads_something_else_has_no_part_in_the_mean(make):
    problem = Problem(make, [KIND, AGE, SIZE], balance="gradnorm")
    apart = nn.Linear(4, WIDTH, dtype=torch.float64)
    features = {"main": Features(pooled=problem.layer(problem.inputs))}
    other = {"main": Features(pooled=apart(problem.inputs))}

    outputs = {
        name: output
        for name, task in problem.head.tasks().items()
        for output in task(other if name == "kind" else features).values()
    }
    plain = problem.head.losses(outputs, problem.targets)
    norms = [
        torch.autograd.grad(plain[name], [problem.layer.weight], retain_graph=True)[0].norm()
        for name in ("age", "size")
    ]
    every = [*apart.parameters(), *problem.layer.parameters()]
    sum(problem.head.balance(plain, problem.targets, Shared({"main": every})).values()).backward()

    mean = sum(norms) / 2
    expected = [0.0, *(((norm - mean).sign() * norm / mean).item() for norm in norms)]
    assert problem.head.balancing.slow.grad.tolist() == pytest.approx(expected)


def toy(make, **config):
    """Two regressions of one function with noise of each their own, targets of scale 1 and 100, as in the paper."""
    problem = Problem(make, [AGE, SIZE], dtype=torch.float32, **config)
    torch.manual_seed(1)
    problem.inputs = torch.randn(64, 4)
    base, age, size = torch.randn(3, 4, 1)
    problem.targets = {
        "age": torch.tanh(problem.inputs @ (base + 0.5 * age)).squeeze(),
        "size": 100 * torch.tanh(problem.inputs @ (base + 0.5 * size)).squeeze(),
    }
    return problem


def weighted_norms(problem):
    weights = problem.head.task_weights()
    losses = problem.plain()
    return [
        weights[name] * torch.autograd.grad(loss, [problem.layer.weight], retain_graph=True)[0].norm().item()
        for name, loss in losses.items()
    ]


@pytest.mark.slow
def test_gradnorm_brings_tasks_of_scale_1_and_100_to_equal_gradient_norms(make):
    problem = toy(make, balance="gradnorm", alpha=0.0)
    with torch.no_grad():  # so that the first gradients differ as the scales of the targets do
        for task in problem.head.tasks().values():
            task.layers[-1].weight.copy_(torch.ones(1, WIDTH) / WIDTH)
    before = weighted_norms(problem)
    optimizer = torch.optim.Adam([*problem.layer.parameters(), *problem.head.parameters()], lr=1e-3)

    balance = []
    for step in range(600):
        problem.stepped()
        optimizer.step()
        if step >= 500:
            one, other = weighted_norms(problem)
            balance.append(one / other)

    assert before[1] / before[0] > 50
    assert 0.8 < math.exp(sum(map(math.log, balance)) / len(balance)) < 1.25
    assert sum(problem.head.task_weights().values()) == pytest.approx(2)


# --- pcgrad


def by_hand_pcgrad(gradients, orders):
    """Algorithm 1 of the paper, on vectors."""
    found = []
    for task, order in enumerate(orders):
        projected = gradients[task].clone()
        for other in order:
            if other != task and (product := projected @ gradients[other]) < 0:
                projected -= product / (gradients[other] @ gradients[other]) * gradients[other]
        found.append(projected)
    return sum(found)


def agree(problem):
    """Make the gradients of two regressions agree or conflict, by the sign of the second one's targets."""
    one, other = (task.layers[-1] for task in problem.head.tasks().values())
    other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pcgrad_projects_where_two_tasks_conflict_and_only_there(make, sign):
    problem = Problem(make, [AGE, SIZE], balance="pcgrad")
    agree(problem)
    problem.targets["size"] = sign * 3 * problem.targets["age"]
    own = problem.gradients()
    product = own["age"] @ own["size"]

    found = problem.stepped()

    plain = own["age"] + own["size"]
    assert (product > 0) == (sign > 0)
    torch.testing.assert_close(found, by_hand_pcgrad(list(own.values()), [[0, 1], [1, 0]]))
    assert torch.allclose(found, plain) == (sign > 0)


@pytest.mark.parametrize("seed", range(6))
def test_three_tasks_are_projected_in_the_order_that_torch_draws(make, seed):
    problem = Problem(make, [KIND, AGE, SIZE], seed=seed, balance="pcgrad")
    own = list(problem.gradients().values())
    torch.manual_seed(seed)
    orders = [torch.randperm(3).tolist() for _ in own]

    torch.manual_seed(seed)
    found = problem.stepped()

    torch.testing.assert_close(found, by_hand_pcgrad(own, orders))


def test_some_of_the_orders_above_make_a_difference(make):
    different = 0
    for seed in range(6):
        own = list(Problem(make, [KIND, AGE, SIZE], seed=seed, balance="pcgrad").gradients().values())
        one = by_hand_pcgrad(own, [[0, 1, 2]] * 3)
        different += not torch.allclose(one, by_hand_pcgrad(own, [[2, 1, 0]] * 3))

    assert different


def test_pcgrad_leaves_the_losses_and_the_heads_own_gradients_as_they_were(make):
    problem = Problem(make, [AGE, SIZE], balance="pcgrad", weights={"size": 2.0})
    agree(problem)
    problem.targets["size"] = -3 * problem.targets["age"]
    alone = problem.plain()
    sum(alone.values()).backward()
    before = [parameter.grad.clone() for parameter in problem.head.parameters()]

    found = problem.losses()
    problem.stepped()

    assert values(found) == values(alone)
    assert all(torch.equal(p.grad, one) for p, one in zip(problem.head.parameters(), before, strict=True))


def test_a_task_without_labels_has_no_part_in_the_projection(make):
    problem = Problem(make, [KIND, AGE, SIZE], balance="pcgrad")
    problem.miss("kind")
    own = problem.gradients()

    found = problem.stepped()

    assert not own["kind"].any()
    torch.testing.assert_close(found, by_hand_pcgrad([own["age"], own["size"]], [[0, 1], [1, 0]]))


def test_parameters_that_one_task_has_for_itself_are_not_projected(make):
    problem = Problem(make, [AGE, SIZE], balance="pcgrad")
    agree(problem)
    problem.targets["size"] = -3 * problem.targets["age"]
    alone = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def losses():
        pooled = problem.layer(problem.inputs)
        outputs = problem.head.tasks()["age"]({"main": Features(pooled=pooled)})
        outputs |= problem.head.tasks()["size"]({"main": Features(pooled=pooled + alone(pooled))})
        return problem.head.losses(outputs, problem.targets)

    theirs, both = list(alone.parameters()), list(problem.layer.parameters())
    plain = losses()
    own = [torch.cat([g.flatten() for g in torch.autograd.grad(x, both, retain_graph=True)]) for x in plain.values()]
    expected = torch.autograd.grad(plain["size"], theirs)
    sum(problem.head.balance(losses(), problem.targets, Shared({"main": [*theirs, *both]})).values()).backward()

    found = torch.cat([parameter.grad.flatten() for parameter in both])
    torch.testing.assert_close(found, by_hand_pcgrad(own, [[0, 1], [1, 0]]))
    assert not torch.allclose(found, sum(own))
    for parameter, gradient in zip(theirs, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_gradient_that_is_not_finite_is_not_spread_by_projection(make):
    problem = Problem(make, [AGE, SIZE], balance="pcgrad")
    problem.inputs[0] = math.inf

    losses = problem.losses()

    assert not any(math.isfinite(loss.item()) for loss in losses.values())
    assert not problem.stepped().isfinite().all()


# --- all of them

BALANCES = ["uncertainty", "gradnorm", "pcgrad"]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_scaled_and_accumulated_loss_gives_scaled_and_accumulated_gradients(make, balance):
    problem = Problem(make, [AGE, SIZE], balance=balance)
    agree(problem)
    problem.targets["size"] = -3 * problem.targets["age"]
    once = problem.stepped().clone()
    own = [None if p.grad is None else p.grad.clone() for p in problem.head.parameters()]

    problem.stepped()
    (1024.0 * sum(problem.losses().values())).backward()

    found = torch.cat([parameter.grad.flatten() for parameter in problem.layer.parameters()])
    torch.testing.assert_close(found, 1025 * once)
    for parameter, gradient in zip(problem.head.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.grad, 1025 * gradient)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_gradients_are_nearly_those_of_full_precision(make, balance, dtype):
    problem = Problem(make, [KIND, AGE, SIZE], dtype=torch.float32, balance=balance)
    torch.manual_seed(3)
    exact = problem.stepped().clone()
    torch.manual_seed(3)

    with torch.autocast("cpu", dtype):
        losses = problem.losses()
        plain = problem.plain()
    for parameter in problem.layer.parameters():
        parameter.grad = None
    sum(losses.values()).backward()

    found = torch.cat([parameter.grad.flatten() for parameter in problem.layer.parameters()])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.99
    if balance == "pcgrad":
        assert values(losses) == values(plain)


def test_in_float16_gradients_that_are_too_small_for_it_are_projected_all_the_same(make):
    tiny = {"age": 1e-6, "size": 1e-6}
    problem = Problem(make, [AGE, SIZE], dtype=torch.float32, balance="pcgrad", weights=tiny)
    agree(problem)
    problem.targets["size"] = -3 * problem.targets["age"]
    exact = problem.stepped().clone()
    plain = sum(problem.gradients().values())
    for parameter in problem.layer.parameters():
        parameter.grad = None

    with torch.autocast("cpu", torch.float16):
        loss = sum(problem.losses().values())
    (loss * 2**14).backward()

    found = torch.cat([parameter.grad.flatten() for parameter in problem.layer.parameters()]) / 2**14
    assert (exact - plain).norm() > 0.1 * exact.norm()
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("balance", BALANCES)
def test_a_batch_without_any_label_has_zero_gradients_everywhere(make, balance):
    problem = Problem(make, [KIND, AGE], balance=balance)
    problem.miss("kind")
    problem.targets.pop("age")

    losses = problem.losses()
    problem.stepped()

    assert values(losses) == {"kind": 0.0, "age": 0.0}
    every = [*problem.layer.parameters(), *problem.head.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in every)


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_tasks_that_share_nothing_that_trains_are_refused_at_the_first_loss(make, balance):
    problem = Problem(make, [KIND, AGE], balance=balance)
    problem.layer.requires_grad_(False)
    losses = problem.plain()

    with pytest.raises(ConfigError, match=r"'all' \(multi_task\) balances its tasks by parameters.*let a backbone"):
        problem.head.balance(losses, problem.targets, Shared({"main": []}))
    found = problem.head.balance(losses, problem.targets, Shared({"main": []}, later=True))

    assert values(found) == values(losses)


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_what_lies_around_a_multi_task_head_is_shared_by_its_tasks(make, balance):
    problem = Problem(make, [AGE, SIZE], balance=balance)
    agree(problem)
    problem.targets["size"] = -3 * problem.targets["age"]
    around = Around(problem.head, problem.layer)
    expected = problem.stepped().clone()
    for parameter in around.parameters():
        parameter.grad = None

    assert around.balances
    sum(around.balance(problem.plain(), problem.targets, Shared({})).values()).backward()

    found = torch.cat([parameter.grad.flatten() for parameter in problem.layer.parameters()])
    torch.testing.assert_close(found, expected)


class Around(Head):
    """A head of a stranger that has a layer under a head inside it, and never heard of balance."""

    def __init__(self, inner, layer):
        nn.Module.__init__(self)
        self.layer, self.rooms = layer, nn.ModuleList([inner])

    @classmethod
    def needs(cls, spec, config, context):
        return {}

    def tasks(self):
        return self.rooms[0].tasks()

    def forward(self, features):
        return self.rooms[0]({"main": Features(pooled=self.layer(features["main"].pooled))})

    def losses(self, outputs, targets):
        return self.rooms[0].losses(outputs, targets)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"balance": "gradnrm"}, "balance"),
        (
            {"balance": "uncertainty", "weights": {"age": 2.0}},
            "weights must be left out where balance is 'uncertainty'",
        ),
        ({"balance": "gradnorm", "alpha": -1.0}, "alpha must be a number, 0 or more, got -1"),
        ({"balance": "pcgrad", "alpha": 1.0}, "alpha is of balance='gradnorm'"),
        ({"alpha": 1.0}, "alpha is of balance='gradnorm'"),
        ({"balance": "gradnorm", "balance_speed": 0.0}, "balance_speed must be a number above 0"),
        ({"balance": "pcgrad", "balance_speed": 2.0}, "balance_speed must be left out where balance is 'pcgrad'"),
        ({"balance": "pcgrad", "heads": [KIND]}, "must have 2 or more for that; it has kind"),
        ({"balance": "gradnorm", "heads": [KIND, {**AGE, "weight": 2.0}]}, "'age' has weight 2.0; leave it out"),
        (
            {"heads": [KIND, {"type": "multi_task", "name": "inner", "heads": [AGE, SIZE], "balance": "pcgrad"}]},
            "has 'inner' inside, which balances; set balance on the outer one",
        ),
        (
            {
                "balance": "uncertainty",
                "heads": [KIND, {"type": "multi_task", "name": "inner", "heads": [AGE], "weights": {"age": 2.0}}],
            },
            "'inner' sets them; leave them out",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("multi_task", "all", **{"heads": [KIND, AGE], **config})

    assert "\n" not in str(caught.value)


def test_fixed_weights_have_no_state_of_their_own(make):
    head = make("multi_task", "all", heads=[KIND, AGE], weights={"age": 2.0})

    assert not head.balances
    assert head.task_weights() == {"kind": 1.0, "age": 2.0}
    assert not [key for key in head.state_dict() if "balancing" in key]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_head_that_balances_conforms(balance):
    check_head({"type": "multi_task", "name": "all", "heads": [KIND, AGE], "balance": balance})
