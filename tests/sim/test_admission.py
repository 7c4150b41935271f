"""Admission: the same decisions in both worlds, the line of held calls, policies that misbehave."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError, PolicyError
from heterarch.policy.admission import ADMISSIONS, Admission, admission
from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.core import NOT_ADMITTED, REASONS

from .test_routing import busy_world
from .test_simulate import trace
from .worlds import calls_of, hosted, mixed, one_call, placed, plan_of, run


class Watched:
    """A policy that calls another and notes what it saw and decided."""

    def __init__(self, inner):
        self.inner, self.name, self.decided = inner, inner.name, []

    def decide(self, view):
        self.decided.append(int(self.inner.decide(view)))
        return self.decided[-1]


class Scripted:
    """Decides by a function of the view."""

    name = "scripted"

    def __init__(self, function):
        self.decide = function


def ended(state):
    return {name: int((state.requests["status"] == Status[name]).sum()) for name in ("COMPLETED", "REJECTED")}


@pytest.mark.parametrize("text", ["all", "queue-limit:700", "queue-hold:700", "deadline:12"])
@pytest.mark.parametrize("seed", [3, 4])
def test_every_decision_is_the_same_interpreted_and_compiled(text, seed):
    pools, calls, tree = busy_world(seed)
    calls.rows["release_s"] /= 12
    compiled = run(pools, calls, tree, admission=text)
    watched = Watched(admission(text))
    interpreted = run(pools, calls, tree, admission=watched)
    assert compiled.sequences.tobytes() == interpreted.sequences.tobytes()
    assert compiled.requests["status"].tolist() == interpreted.requests["status"].tolist()
    counts = ended(compiled)
    assert sum(counts.values()) == 400
    beyond = ADMISSIONS[text.partition(":")[0]].otherwise
    if text != "all":
        assert beyond in watched.decided
    assert counts["REJECTED"] == watched.decided.count(Admission.REJECT)
    assert (counts["REJECTED"] > 0) == text.startswith(("queue-limit", "deadline"))
    rejected = compiled.requests["status"] == Status.REJECTED
    assert (compiled.requests["reason"][rejected] == NOT_ADMITTED).all()


def test_a_queue_limit_bounds_the_queue():
    state = run([mixed()], calls_of([60] * 10, [10] * 10), admission="queue-limit:100")
    assert ended(state) == {"COMPLETED": 2, "REJECTED": 8}  # 60 < 100, 120 is not


def test_a_deadline_keeps_what_it_admits_within_the_limit():
    rng = np.random.default_rng(1)
    work = calls_of([64] * 300, [1] * 300, np.cumsum(rng.exponential(0.7, 300)))  # one prompt per second is served
    state = run([mixed()], work, admission="deadline:5")
    done = state.sequences["status"] == Status.COMPLETED
    ttft = (state.sequences["first_s"] - state.sequences["submitted_s"])[done]
    assert 150 < done.sum() < 290
    assert ttft.max() <= 6.0  # an iteration may be under way


def test_held_calls_start_in_order_as_room_comes():
    state = run([mixed()], calls_of([64] * 5, [1] * 5), admission="queue-hold:1")
    assert ended(state) == {"COMPLETED": 5, "REJECTED": 0}
    assert state.sequences["finish_s"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert state.sequences["submitted_s"].tolist() == [0.0] * 5


def test_later_calls_of_an_admitted_request_pass():
    seen = []

    def once(view):
        seen.append(view.prompt_tokens)
        return 0 if len(seen) == 1 else 1

    work = calls_of([20, 30], [2, 2], request=[0, 0], session=[0, 0], edges=[[0, 1, 0]])
    state = run([mixed()], work, admission=Scripted(once))
    assert seen == [20]
    assert state.requests["status"].tolist() == [Status.COMPLETED]


def test_a_rate_limit_of_a_hosted_api_is_a_wait_that_a_deadline_refuses():
    work = calls_of([10] * 200, [2] * 200)
    api = hosted(requests_per_min=60)
    patient, hasty = run([api], work), run([api], work, admission="deadline:30")
    assert ended(patient) == {"COMPLETED": 200, "REJECTED": 0}
    assert ended(hasty)["COMPLETED"] == 90  # a bucket of 60, and 30 s at one per second
    assert hasty.sequences["scheduled_s"][hasty.sequences["status"] == Status.COMPLETED].max() <= 30.0


def test_a_report_counts_rejections_with_their_reason():
    plan = plan_of([mixed(concurrency=64, kv_tokens=16_000)], placed("ask"), slo=["ttft.p95<=3s"])
    done = run_simulation(plan, one_call(), trace(200).scaled_rate(4.0), replay="open", admission="deadline")
    counts = done.report.requests
    assert counts.rejected > 0
    assert counts.offered == counts.completed + counts.rejected == 200
    assert done.report.reasons == {REASONS[NOT_ADMITTED]: counts.rejected}
    assert done.report.ttft_s.p95 < 5


def test_the_plan_may_name_its_admission_policy():
    plan = plan_of([mixed()], placed("ask"))
    plan = plan.model_copy(update={"policies": {"router": "prefix-affinity", "admission": "queue-limit:64"}})
    assert run_simulation(plan, one_call(), trace(200).scaled_rate(4.0), replay="open").report.requests.rejected > 0


def raises(view):
    raise ValueError("no idea")


def writes(view):
    view.pending_tokens[0] = 0
    return 0


def assigns(view):
    view.now_s = 0.0
    return 0


BAD = [
    (raises, "raised ValueError"),
    (writes, "wrote to its view"),
    (assigns, "wrote to its view"),
    (lambda view: 1.5, "gave no whole number"),
    (lambda view: None, "gave no whole number"),
    (lambda view: True, "gave no whole number"),
    (lambda view: 7, "does not exist"),
]


@pytest.mark.parametrize(("function", "message"), BAD)
@pytest.mark.parametrize("topic", ["router", "admission"])
def test_a_policy_that_misbehaves_is_named_and_what_ran_is_kept(function, message, topic):
    calls = 0

    def later(view):
        nonlocal calls
        calls += 1
        return 0 if calls <= 20 else function(view)

    plan = plan_of([mixed()], placed("ask"))
    with pytest.raises(PolicyError, match=message) as caught:
        run_simulation(plan, one_call(), trace(50), replay="open", **{topic: Scripted(later)})
    assert "'scripted'" in str(caught.value)
    assert caught.value.partial.report.partial
    assert caught.value.partial.report.requests.completed > 0
    counts = caught.value.partial.report.requests
    assert counts.offered == counts.completed + counts.unfinished
    if function is raises:
        assert caught.value.where.file == __file__
        assert caught.value.where.line == raises.__code__.co_firstlineno + 1


def test_a_policy_that_waits_for_nothing_is_refused():
    with pytest.raises(PolicyError, match="nothing is left to wait for"):
        run([mixed()], calls_of([10] * 3, [2] * 3), admission=Scripted(lambda view: 2))


def test_ctrl_c_inside_of_a_policy_keeps_what_ran():
    decided = []

    def tired(view):
        decided.append(1)
        if len(decided) > 20:
            raise KeyboardInterrupt
        return 0

    plan = plan_of([mixed()], placed("ask"))
    for topic in ("router", "admission"):
        decided.clear()
        done = run_simulation(plan, one_call(), trace(50), replay="open", **{topic: Scripted(tired)})
        assert done.interrupted
        assert done.report.partial
        assert done.report.requests.completed > 0


@pytest.mark.parametrize("text", ["queue-limit:0", "queue-limit:x", "deadline:-1", "all:3", "deadline:inf"])
def test_a_wrong_limit_is_named(text):
    with pytest.raises(InputError, match="limit"):
        admission(text)


def test_an_unknown_policy_is_named_with_those_there_are():
    with pytest.raises(InputError, match="unknown admission policy 'queue'"):
        admission("queue")
