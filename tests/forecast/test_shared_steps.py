"""Of cascades that begin alike, what they share stands once in the row of steps."""

from forecast.cascade import Cascade, Stage
from forecast.shared_steps import share_steps
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import extrapolation

ANALYSIS = make_analysis()


def row(cascades, steps):
    return [(one.step.lead_hours, one.cascades, one.reads) for one in share_steps(cascades, steps)]


def test_a_branch_goes_on_from_the_states_of_the_first():
    short, medium = extrapolation(ANALYSIS), extrapolation(ANALYSIS)
    both = [Cascade([Stage(6, short), Stage(12, medium)]), Cascade([Stage(12, short)])]
    assert row(both, [2, 2]) == [
        (6, (0, 1), ((0, -6), (0, 0))),
        (12, (0,), ((0, 0), (0, 6))),
        (12, (1,), ((0, 0), (0, 6))),
    ]


def test_a_cascade_that_ends_early_gives_no_states_beyond_its_end():
    model = extrapolation(ANALYSIS)
    both = [Cascade([Stage(6, model)]), Cascade([Stage(18, model)])]
    assert row(both, [1, 3]) == [
        (6, (0, 1), ((0, -6), (0, 0))),
        (12, (1,), ((0, 0), (0, 6))),
        (18, (1,), ((0, 6), (1, 12))),
    ]
    assert [one[1] for one in row([both[1], both[1]], [1, 3])] == [(0, 1), (1,), (1,)]


def test_equal_models_that_are_two_objects_share_nothing():
    both = [Cascade.of(extrapolation(ANALYSIS), 1), Cascade.of(extrapolation(ANALYSIS), 1)]
    assert row(both, [1, 1]) == [(6, (0,), ((0, -6), (0, 0))), (6, (1,), ((1, -6), (1, 0)))]
    assert [one.initial for one in share_steps(both, [1, 1])] == [(0, 0), (1, 0)]


def test_a_later_stage_of_longer_steps_reads_what_both_share():
    model, long = extrapolation(ANALYSIS), extrapolation(ANALYSIS, step_hours=12)
    cascades = [Cascade([Stage(12, model)]), Cascade([Stage(12, model), Stage(36, long)])]
    assert row(cascades, [2, 4])[2:] == [(24, (1,), ((0, 0), (0, 12))), (36, (1,), ((0, 12), (1, 24)))]
