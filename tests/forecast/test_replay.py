"""The pool of forecasts: who enters, who leaves, and that nothing else changes."""

import numpy as np
import pytest
import torch

from forecast.replay import ReplayBuffer


def make_buffer(size: int = 6, last_lead: int = 3, **settings: object) -> ReplayBuffer:
    counter = iter(range(10_000))

    def start(rng: np.random.Generator):
        number = next(counter)
        return torch.full((2, 1, 2, 2), float(number)), 0, number, 0

    return ReplayBuffer(size, start, lambda source, index, lead: lead < last_lead, np.random.default_rng(0), **settings)


def test_draws_are_different_forecasts() -> None:
    draw = make_buffer().draw(4)
    assert len(set(draw.slot)) == 4
    assert draw.frames.shape == (4, 2, 1, 2, 2)


def test_forecasts_move_on_one_step_and_keep_their_frames() -> None:
    buffer = make_buffer(fresh_share=1e-9)
    draw = buffer.draw(2)
    buffer.put_back(draw, draw.frames + 0.5)
    for row, slot in enumerate(draw.slot):
        frames, source, index, lead = buffer.slots[slot]
        assert (source, index, lead) == (0, draw.index[row] + 1, 1)
        torch.testing.assert_close(frames, draw.frames[row] + 0.5)


def test_forecast_at_its_last_lead_time_makes_room() -> None:
    buffer = make_buffer(size=1, last_lead=3, fresh_share=1e-9)
    leads = []
    for _ in range(7):
        draw = buffer.draw(1)
        leads.append(int(draw.lead[0]))
        buffer.put_back(draw, draw.frames)
    assert leads == [0, 1, 2, 0, 1, 2, 0]


def test_fresh_share_is_kept() -> None:
    buffer = make_buffer(size=64, last_lead=10**6, fresh_share=0.25)
    fresh = 0
    for _ in range(400):
        draw = buffer.draw(8)
        fresh += int((draw.lead == 0).sum())
        buffer.put_back(draw, draw.frames)
    # 3200 draws at 0.25 and the 64 that fill the pool: the standard deviation of the count is 24.
    assert fresh == pytest.approx(800 + 48, abs=120)


def test_state_goes_on_exactly() -> None:
    one, other = make_buffer(), make_buffer()
    for _ in range(5):
        draw = one.draw(3)
        one.put_back(draw, draw.frames + 1)
    other.load_state_dict(one.state_dict())
    assert other.rng.random() == one.rng.random()
    assert [slot[2:] for slot in other.slots] == [slot[2:] for slot in one.slots]


@pytest.mark.parametrize(("settings", "message"), [
    ({"size": 0}, "size must be at least 1"),
    ({"fresh_share": 0.0}, r"fresh_share must lie in \(0, 1\]"),
])  # fmt: skip
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_buffer(**settings)


def test_batch_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 7 is larger than the buffer of 6.*replay_buffer"):
        make_buffer().draw(7)
