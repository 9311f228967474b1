"""From a method to a plan that fits the model; whatever is wrong with it is said before any data is read."""

from __future__ import annotations

from zoo.contracts.method import Method, Plan
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.model import Model
from zoo.training.planning.groups import HEADS, outlines, parameter_groups
from zoo.training.planning.schedules import SCHEDULES, Schedule, check_own
from zoo.training.planning.settings import Settings

__all__ = ["check_judged", "make_plan"]


def make_plan(method: Method, model: Model, *, epochs: int, lr: float, schedule: Schedule = "cosine") -> Plan:
    """Let a method make its plan for a model, and check it.

    Args:
        method: The method, with its settings.
        model: The model, which the method has prepared.
        epochs: Number of epochs, 1 or more.
        lr: Learning rate of the heads.
        schedule: How rates go from step to step.

    Raises:
        UnknownName: If the plan names a stage that the model does not have.
        ConfigError: If the plan has another number of epochs, forgets a stage, trains nothing, or does not go with the
            schedule.
    """
    plan = method.plan(outlines(model), epochs=epochs, lr=lr)
    if plan.patience is None and len(plan.epochs) != epochs:
        raise ConfigError(f"The method planned {len(plan.epochs)} epochs, and {epochs} were asked for.")
    _check_stages(model, plan)
    if plan.never_trained() == plan.stages():
        raise ConfigError("The method trains nothing: every stage and all heads stay frozen in each epoch.")
    if any(state.train != "all" or state.decay != 1 for state in plan.states_of(HEADS)):
        raise ConfigError("The method divides the heads; of them all parameters train at one rate, or none.")
    if not isinstance(schedule, str):
        check_own(plan)
    idle = plan.stages() - plan.never_trained() == {HEADS} and not any(True for _ in model.heads.parameters())
    if not idle:
        parameter_groups(model, plan, weight_decay=0.0)
    return plan


def check_judged(plan: Plan, run: Settings, *, judged: bool) -> None:
    """Refuse what goes by the validation values where there are no validation rows.

    Raises:
        ConfigError: If the plan, the schedule or the patience does.
    """
    if judged:
        return
    schedule = run.schedule
    without = "needs validation rows, and there are none; set validation above 0"
    if plan.patience is not None:
        raise ConfigError(f"The method goes on when the validation value gets no better, so it {without}.")
    if isinstance(schedule, str) and SCHEDULES[schedule].judges:
        raise ConfigError(f"The schedule {schedule!r} goes by the validation value, so it {without}.")
    if run.patience is not None:
        raise ConfigError(f"patience counts epochs without a better validation value, so it {without}.")


def _check_stages(model: Model, plan: Plan) -> None:
    """Refuse stages that the model does not have, and those that the plan forgets."""
    known = [f"{stream}.{stage.name}" for stream, one in outlines(model).items() for stage in one.stages]
    for name in sorted(plan.stages() - {*known, HEADS}):
        near = nearest(name, known) or known
        raise UnknownName(f"The method plans for a stage {name!r} that is not there; there is {', '.join(near)}.")
    for number, states in enumerate(plan.epochs):
        for name in (*known, HEADS):
            if name not in states:
                raise ConfigError(f"The method does not say what {name} does in epoch {number + 1}.")
