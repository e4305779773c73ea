"""The simulated schedule of the docs keeps what any schedule keeps."""

import json
import math

import pytest

from benchmarks.forecast_schedule import MEMBERS, RESULT, STATE, STEPS, Costs, Machine, rows, simulate, step_seconds
from tests.cluster.jobs import ROOT

COSTS = Costs(load=5.0, read=2.0, write_rate=200e6, stored_share=0.6)


@pytest.mark.parametrize("gpus", [1, 8, 16, 49, 50, 64])
def test_members_follow_one_another_in_rounds(gpus):
    """Equal members on equal workers: start, then as many members as the busiest worker makes."""
    machine = Machine(disks=1e15)
    member = COSTS.read + STEPS * (step_seconds(machine) + STATE / (COSTS.write_rate * machine.writers))
    got = simulate(gpus, COSTS, machine)
    wanted = machine.start + COSTS.load + math.ceil(MEMBERS / gpus) * member
    assert got["all_members_minutes"] == pytest.approx(wanted / 60, abs=0.06)
    assert got["bound_by"] == "compression"
    assert 0 < got["network_share_of_gpu_time"] < 1


def test_slow_disks_bound_all_workers_together():
    got = simulate(8, COSTS, Machine(disks=1e9))
    everything = MEMBERS * STEPS * STATE * COSTS.stored_share
    assert got["bound_by"] == "disks"
    assert got["all_members_minutes"] * 60 >= everything / 1e9


def test_a_step_is_no_shorter_than_its_arithmetic():
    assert step_seconds(Machine()) > 2 * 174.1e6 * 91 * 180 / 989e12
    assert step_seconds(Machine(to_host=1e9)) > step_seconds(Machine())


def test_the_docs_show_the_stored_schedule_and_its_measured_costs():
    page, stored = (ROOT / "docs" / "cluster.md").read_text(), json.loads(RESULT.read_text())
    assert "\n".join(rows(stored["schedules"])) in page
    assert f"({stored['measured']['write_bytes_per_second'] / 1e6:.0f} MB/s a core)" in page
    assert f"page cache ({stored['measured']['load_seconds']:.1f} s)" in page
    got = [simulate(schedule["gpus"], Costs(**stored["costs"]), Machine()) for schedule in stored["schedules"]]
    assert got == stored["schedules"]
