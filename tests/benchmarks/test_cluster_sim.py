"""The simulator of a cluster: formulae on cases computed by hand, limits, simulation against closed form, errors."""

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sim():
    """benchmarks/cluster_sim.py; its folder is on the path only while it is imported, as other scripts lie there."""
    spec = importlib.util.spec_from_file_location("cluster_sim", ROOT / "benchmarks/cluster_sim.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.fixture(scope="module")
def throughput(sim):
    return sys.modules["scaling.throughput"]


@pytest.fixture(scope="module")
def failures(sim):
    return sys.modules["scaling.failures"]


@pytest.fixture(scope="module")
def calibration(sim):
    return sys.modules["scaling.calibration"]


@pytest.fixture(scope="module")
def cluster(sim):
    return sim.Cluster(
        gpus_per_node=8, cores_per_node=16, intra_gb_per_s=100, intra_latency_us=10, inter_gb_per_s=50,
        inter_latency_us=20, storage_gb_per_s=1, node_storage_gb_per_s=0.2, node_mtbf_hours=100, preemptions_per_day=0,
        restart_seconds=100,
    )  # fmt: skip


@pytest.fixture(scope="module")
def training(sim):
    """16 GPUs all-reduce in 30.36 ms, 20 ms of which backward hides; reading costs nothing."""
    return sim.Training(
        batch_per_gpu=10, step_seconds=0.1, step_spread=0, gradient_bytes=8e8, gradient_buckets=2, backward_share=0.5,
        overlap_share=0.4, decode_cpu_seconds=0, read_bytes=0, workers_per_gpu=3, checkpoint_seconds=50,
        loader_start_seconds=20,
    )  # fmt: skip


def test_ring_all_reduce_by_hand(throughput):
    # 6 rounds of 10 us; 6 rounds of a quarter of 8 MB at 1 GB/s
    assert throughput.ring_all_reduce(4, 8e6, latency=1e-5, bandwidth=1e9) == pytest.approx(0.01206)
    assert throughput.ring_all_reduce(4, 8e6, latency=1e-5, bandwidth=1e9, messages=3) == pytest.approx(0.01218)


def test_all_reduce_over_nodes_by_hand(throughput, cluster, training):
    # in the node 14 rounds: 0.28 ms + 14 ms; between two nodes, an eighth of 800 MB at 6.25 GB/s: 0.08 ms + 16 ms
    assert throughput.all_reduce(16, cluster, training) == pytest.approx(0.03036)
    assert throughput.all_reduce(8, cluster, training) == pytest.approx(0.01428)
    # two GPUs of one node: 2 rounds of 2 messages, 800 MB at 100 GB/s
    assert throughput.all_reduce(2, cluster, training) == pytest.approx(0.00804)


def test_one_gpu_reduces_nothing(throughput, cluster, training):
    assert throughput.all_reduce(1, cluster, training) == 0
    alone = throughput.speed(1, cluster, training)
    assert (alone.clips_per_second, alone.efficiency, alone.bottleneck) == (pytest.approx(100), 1, "compute")


def test_backward_hides_a_part_of_the_all_reduce(throughput, cluster, training):
    found = throughput.speed(16, cluster, training)
    assert found.seconds["all-reduce"] == pytest.approx(0.01036)
    assert found.clips_per_second == pytest.approx(160 / 0.11036)
    assert found.efficiency == pytest.approx(0.1 / 0.11036)
    assert found.step_clips == 160
    assert throughput.speed(8, cluster, training).seconds["all-reduce"] == 0  # 14.28 ms behind 20 ms


def test_accumulation_reduces_once_for_several_batches(throughput, cluster, training):
    found = throughput.speed(16, cluster, replace(training, accumulate_batches=2))
    assert found.clips_per_second == pytest.approx(320 / 0.21036)
    assert found.step_clips == 320


def test_the_slowest_of_many_waits_less_over_accumulated_batches(throughput, cluster, training):
    # Blom: the quantile at 7.625 / 8.25 is 1.4342 (tables of normal order statistics have 1.4236 for the largest of 8)
    found = throughput.speed(8, cluster, replace(training, step_spread=0.1))
    assert found.seconds["compute"] == pytest.approx(0.1 * (1 + 0.1 * 1.4342), rel=1e-4)
    found = throughput.speed(8, cluster, replace(training, step_spread=0.1, accumulate_batches=4))
    assert found.seconds["compute"] == pytest.approx(0.4 * (1 + 0.1 * 1.4342 / 2), rel=1e-4)


@pytest.mark.parametrize(("processes", "expected"), [(2, 0.5642), (10, 1.5388), (100, 2.5076), (1000, 3.2414)])
def test_slowest_of_many_against_tables_and_drawn_numbers(throughput, processes, expected):
    drawn = np.random.default_rng(0).standard_normal((4000, processes)).max(axis=1)
    assert drawn.mean() == pytest.approx(expected, abs=4 * drawn.std() / math.sqrt(len(drawn)))
    assert throughput.slowest_of(processes) == pytest.approx(expected, rel=0.05)


def test_one_process_waits_for_nobody(throughput):
    assert throughput.slowest_of(1) == 0


def test_supply_by_hand(throughput, cluster, training):
    reading = replace(training, decode_cpu_seconds=0.05, read_bytes=2e6, views_per_decode=2)
    # 16 GPUs: 2 cores each (3 workers share them) at 40 clips/s; 1 GB/s and 2 x 0.2 GB/s at 1 MB a clip
    found = throughput.supply(16, cluster, reading)
    assert found == {"decode cores": 1280, "storage": pytest.approx(1000), "network": pytest.approx(400)}
    assert throughput.supply(4, cluster, replace(reading, workers_per_gpu=1))["decode cores"] == pytest.approx(160)
    slowest = throughput.speed(16, cluster, reading)
    assert (slowest.bottleneck, slowest.clips_per_second) == ("network", pytest.approx(400))
    fast_links = replace(cluster, node_storage_gb_per_s=math.inf)
    assert throughput.speed(16, fast_links, reading).bottleneck == "storage"
    reading = replace(reading, decode_cpu_seconds=0.1)
    found = throughput.speed(16, fast_links, reading)
    assert (found.bottleneck, found.clips_per_second) == ("decode cores", pytest.approx(640))


@pytest.mark.parametrize(("shards", "readers", "share"), [(0, 7, 1), (8, 4, 1), (10, 4, 10 / 12), (3, 4, 0.75)])
def test_the_fullest_reader_sets_the_pace(throughput, shards, readers, share):
    assert throughput.shard_balance(shards, readers) == pytest.approx(share)


def test_whole_shards_slow_decoding(throughput, cluster, training):
    dealt = replace(training, decode_cpu_seconds=0.05, num_shards=50)  # 48 readers, of which two have two
    assert throughput.supply(16, cluster, dealt)["decode cores"] == pytest.approx(1280 * 50 / 96)


def test_a_fixed_batch_is_shared_out(throughput, cluster, training):
    shared = replace(training, global_batch=80, min_step_seconds=0.03, gradient_bytes=0, gradient_buckets=1)
    calm = replace(cluster, intra_latency_us=0, inter_latency_us=0)
    assert throughput.speed(16, calm, shared).clips_per_second == pytest.approx(80 / 0.05)
    assert throughput.speed(40, calm, shared).clips_per_second == pytest.approx(80 / 0.03)  # 2 clips, not 20 ms
    with pytest.raises(ValueError, match="does not reach for 81 GPUs"):
        throughput.speed(81, calm, shared)


def test_without_limits_it_is_compute(throughput, sim, cluster, training):
    endless = dict.fromkeys(("intra_gb_per_s", "inter_gb_per_s", "storage_gb_per_s", "node_storage_gb_per_s"), math.inf)
    free = replace(cluster, intra_latency_us=0, inter_latency_us=0, cores_per_node=10**9, **endless)
    reading = replace(training, decode_cpu_seconds=0.05, read_bytes=2e6, workers_per_gpu=10**6)
    found = throughput.speed(512, free, reading)
    assert (found.bottleneck, found.efficiency) == ("compute", pytest.approx(1))


def test_a_slow_network_makes_it_all_reduce(throughput, cluster, training):
    found = throughput.speed(16, replace(cluster, inter_gb_per_s=1), training)
    assert found.bottleneck == "all-reduce"
    # 100 MB at 1/8 GB/s: 0.8 s, 0.08 ms and 14.28 ms, of which 20 ms are hidden
    assert found.clips_per_second == pytest.approx(160 / (0.1 + 0.79436))


@pytest.mark.parametrize("preset", ["h100", "modest"])
def test_more_gpus_never_are_slower_nor_more_efficient(throughput, sim, preset):
    rows = [throughput.speed(gpus, *sim.PRESETS[preset]) for gpus in sim.SIZES]
    for fewer, more in pairwise(rows):
        assert more.clips_per_second >= fewer.clips_per_second
        assert more.efficiency <= fewer.efficiency + 1e-12


@pytest.mark.parametrize(
    ("field", "factor"),
    [("inter_gb_per_s", 2), ("intra_gb_per_s", 2), ("cores_per_node", 2), ("storage_gb_per_s", 2),
     ("node_storage_gb_per_s", 2), ("inter_latency_us", 0.5), ("intra_latency_us", 0.5)],
)  # fmt: skip
def test_better_machines_never_are_slower(throughput, sim, field, factor):
    for cluster, training in sim.PRESETS.values():
        better = replace(cluster, **{field: type(getattr(cluster, field))(getattr(cluster, field) * factor)})
        for gpus in sim.SIZES:
            before, after = (throughput.speed(gpus, each, training) for each in (cluster, better))
            assert after.clips_per_second >= before.clips_per_second


def test_young_and_daly_by_hand(failures):
    risk = failures.Risk(mtbf=10_000, checkpoint=50, restart=100)
    assert failures.young_interval(risk) == pytest.approx(1000)
    assert failures.daly_interval(risk) == pytest.approx(1000 * (1 + 0.05 / 3 + 0.0025 / 9) - 50)
    assert failures.daly_interval(replace(risk, checkpoint=20_000)) == 10_000  # the longest checkpoint worth it
    assert failures.daly_interval(replace(risk, mtbf=math.inf)) == math.inf


@pytest.mark.parametrize(("mtbf_minutes", "best_minutes"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_intervals_that_dalys_paper_states(failures, mtbf_minutes, best_minutes):
    """Its figures 3 to 5: a checkpoint of 5 minutes, a restart of 10."""
    risk = failures.Risk(mtbf=60 * mtbf_minutes, checkpoint=300, restart=600)
    assert failures.daly_interval(risk) / 60 == pytest.approx(best_minutes, rel=0.006)


def test_lost_share_by_hand(failures):
    risk = failures.Risk(mtbf=1000, checkpoint=50, restart=100)
    # 1000 e^0.1 (e^0.5 - 1) = 716.948 s for 450 s of work
    assert failures.lost_share(risk, 450) == pytest.approx(1 - 450 / 716.948, rel=1e-5)
    stopped = replace(risk, between_preemptions=1000)  # 150 s more for every 1000
    assert failures.lost_share(stopped, 450) == pytest.approx(1 - 450 / 716.948 / 1.15, rel=1e-5)


def test_without_failures_only_checkpoints_cost(failures):
    calm = failures.Risk(mtbf=math.inf, checkpoint=50, restart=100)
    assert failures.lost_share(calm, 450) == pytest.approx(0.1)
    assert failures.lost_share(calm, failures.daly_interval(calm)) == 0
    assert failures.lost_share(replace(calm, checkpoint=0), 450) == 0
    with pytest.raises(ValueError, match="nothing fails"):
        failures.simulate(calm, 450, events=10, seed=0)


def test_hopeless_jobs_lose_everything(failures):
    risk = failures.Risk(mtbf=1, checkpoint=50, restart=100)
    assert failures.lost_share(risk, 1000) == 1
    assert failures.lost_share(replace(risk, mtbf=1e6), math.inf) == 1
    with pytest.raises(ValueError, match="must be above 0"):
        failures.lost_share(risk, 0)


def test_rare_failures_cost_half_an_interval_and_a_restart(failures):
    risk = failures.Risk(mtbf=1e7, checkpoint=1, restart=300)
    assert failures.lost_share(risk, 1800) == pytest.approx(1 / 1801 + (900 + 300) / 1e7, rel=0.01)


@pytest.mark.parametrize("mtbf", [2e3, 2e4, 2e6])
def test_dalys_interval_is_the_best(failures, mtbf):
    risk = failures.Risk(mtbf=mtbf, checkpoint=20, restart=100)
    best = failures.daly_interval(risk)
    least = failures.lost_share(risk, best)
    for factor in (0.5, 0.8, 1.25, 2):
        assert failures.lost_share(risk, factor * best) > least


def test_more_nodes_fail_more_often(failures, sim, cluster, training):
    calm, busy = (failures.risk_of(gpus, cluster, training) for gpus in (8, 64))
    assert (calm.mtbf, busy.mtbf) == (360_000, 45_000)
    assert failures.risk_of(1, cluster, training).mtbf == 360_000  # a GPU needs its node
    assert (calm.checkpoint, calm.restart, calm.between_preemptions) == (50, 120, math.inf)
    assert failures.risk_of(1, replace(cluster, preemptions_per_day=4), training).between_preemptions == 21_600


@pytest.mark.parametrize(
    ("mtbf", "checkpoint", "restart", "interval"),
    [(1000, 50, 100, 450), (1000, 0, 800, 200), (5000, 300, 0, 2000), (300, 20, 100, 900)],
)
def test_simulation_agrees_with_the_closed_form(failures, mtbf, checkpoint, restart, interval):
    risk = failures.Risk(mtbf=mtbf, checkpoint=checkpoint, restart=restart)
    mean, error = failures.simulate(risk, interval, events=4000, seed=1)
    assert error < 0.004
    assert mean == pytest.approx(failures.lost_share(risk, interval), abs=4 * error)


def test_simulation_of_preemption_loses_no_work(failures):
    risk = failures.Risk(mtbf=math.inf, checkpoint=0, restart=100, between_preemptions=900)
    mean, error = failures.simulate(risk, 1e5, events=4000, seed=2)
    assert mean == pytest.approx(0.1, abs=4 * error)
    assert failures.lost_share(risk, 1e5) == pytest.approx(0.1)


def test_closed_form_is_on_the_safe_side_with_both(failures):
    risk = failures.Risk(mtbf=20_000, checkpoint=20, restart=300, between_preemptions=10_000)
    mean, error = failures.simulate(risk, 1800, events=4000, seed=3)
    closed = failures.lost_share(risk, 1800)
    assert mean < closed - 2 * error  # a preemption's checkpoint spares the next failure something
    assert closed == pytest.approx(mean, rel=0.1)


def test_simulation_repeats_with_its_seed(failures):
    risk = failures.Risk(mtbf=1000, checkpoint=50, restart=100)
    first, same, other = (failures.simulate(risk, 450, events=50, seed=seed) for seed in (0, 0, 1))
    assert first == same != other


def test_restarts_fail_too(failures):
    # mean time until one of 100 s succeeds: M (e^(R / M) - 1)
    risk = failures.Risk(mtbf=100, checkpoint=0, restart=100)
    rng = random.Random(0)
    times = [failures.failing_restarts(risk, rng) for _ in range(20_000)]
    assert np.mean(times) == pytest.approx(100 * (math.e - 1), abs=4 * np.std(times) / math.sqrt(len(times)))


def lines_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("flags", [[], ["--quick"], ["--preset", "modest"]])
def test_table_has_a_row_for_every_size(sim, capsys, flags):
    sim.main(flags)
    rows = lines_of(capsys.readouterr().out)
    assert [int(row[0]) for row in rows[2:]] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert {len(row) for row in rows} == {10}


def test_flags_change_the_prediction(sim, capsys, tmp_path):
    path = tmp_path / "figures.json"
    flags = {
        "gpus": 1, "batch_per_gpu": 10, "step_seconds": 0.1, "decode_cpu_seconds": 0, "read_bytes": 0, "videos": 3600,
        "views_per_decode": 1, "epochs": 100, "node_mtbf_hours": "inf", "preemptions_per_day": 0,
        "checkpoint_seconds": 0, "restart_seconds": 3600, "loader_start_seconds": 0, "json": path,
    }  # fmt: skip
    sim.main([f"--{name}={value}" for name, value in flags.items()])
    figures = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (row,) = figures["rows"]
    assert row["clips_per_second"] == pytest.approx(100)
    assert row["hours"] == pytest.approx(1 + 1)  # 360,000 clips, and the start
    assert (row["lost"], row["lost_at_best"], row["best_save_minutes"], row["simulated"]) == (0, 0, None, None)
    assert (figures["training"]["epochs"], figures["cluster"]["node_mtbf_hours"]) == (100, None)
    assert lines_of(capsys.readouterr().out)[2][-1] == "-"


def test_every_parameter_has_a_flag_with_its_explanation(sim, capsys):
    with pytest.raises(SystemExit):
        sim.main(["--help"])
    text = capsys.readouterr().out
    for kind in (sim.Cluster, sim.Training):
        helps = sim.explanations(kind)
        for name in kind.__dataclass_fields__:
            assert f"--{name} N" in text
            assert helps[name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "0"], "argument --gpus: must be 1 or more, got 0"),
        (["--preset", "nosuch"], "invalid choice: 'nosuch'"),
        (["--step_seconds", "0"], "step_seconds must be above 0, got 0"),
        (["--step_seconds", "inf"], "step_seconds must be finite, got inf"),
        (["--overlap_share", "1.2"], "overlap_share must be from 0 to 1, got 1.2"),
        (["--node_mtbf_hours", "nan"], "node_mtbf_hours must be above 0, got nan"),
        (["--restart_seconds", "-1"], "restart_seconds must be 0 or more, got -1"),
        (["--cores_per_node", "many"], "argument --cores_per_node: invalid int value: 'many'"),
        (["--save_every_minutes", "0"], "argument --save_every_minutes: must be above 0, got 0"),
        (["--global_batch", "4"], "global_batch 4 does not reach for 8 GPUs: give at least 8"),
        (["--json", "/nonexistent/figures.json"], "/nonexistent/figures.json"),
    ],
)
def test_bad_values_are_one_line(sim, capsys, flags, message):
    with pytest.raises(SystemExit) as leave:
        sim.main(flags)
    error = capsys.readouterr().err
    assert leave.value.code == 2
    assert error.startswith("cluster_sim: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_plot_is_written(sim, capsys, tmp_path):
    sim.main(["--quick", "--plot", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_link_is_found_from_its_own_times(calibration):
    sizes = [4096, 65_536, 1 << 20]
    times = [6 * 1e-4 + 6 / 4 * size / 2e9 for size in sizes]
    link = calibration.fit_link(4, sizes, times)
    assert (link.latency, link.bandwidth) == (pytest.approx(1e-4), pytest.approx(2e9))
    assert link.worst_error < 1e-9
    with pytest.raises(RuntimeError, match="do not grow"):
        calibration.fit_link(4, sizes, times[::-1])


def test_local_prediction_by_hand(calibration):
    one = calibration.Run(
        processes=1, clips_per_second=80, step_seconds=0.1, read_seconds=0, spread=0, other_cores=0
    )  # fmt: skip
    link = calibration.Link(latency=1e-3, bandwidth=1e8, worst_error=0)

    def predict(one, processes, others, link=link):
        return calibration.predict(one, processes, link, cores=2, others=others)

    assert predict(one, 1, 0, link=None) == pytest.approx(80)
    # two messages of 2 rounds, 2,095,408 bytes: 4 ms + 20.95 ms
    assert predict(one, 2, 0) == pytest.approx(16 / 0.12495408)
    # each step takes twice as long on half as many cores; 12 ms + 31.43 ms
    assert predict(one, 4, 0) == pytest.approx(32 / 0.24343112)
    # half a core is taken: 4 processes on 1.5
    assert predict(one, 4, 0.5) == pytest.approx(32 / (0.1 * 4 / 1.5 + 0.04343112))
    # the one process had half a core to itself, so alone it takes 50 ms
    assert predict(replace(one, other_cores=1.5), 2, 0) == pytest.approx(16 / (0.05 + 0.02495408))
    # the slower of two, by Blom: the quantile at 1.625 / 2.25 is 0.5895; four on two cores wait for no more
    spread = replace(one, spread=0.2)
    assert predict(spread, 2, 0) == pytest.approx(16 / (0.1 * (1 + 0.2 * 0.5895) + 0.02495408), rel=1e-4)
    assert predict(spread, 4, 0) == pytest.approx(32 / (0.2 * (1 + 0.2 * 0.5895) + 0.04343112), rel=1e-4)


def test_what_others_take_is_told_from_what_a_session_takes(calibration, tmp_path):
    work = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"]
    process = subprocess.Popen(command, text=True, start_new_session=True)
    metrics = tmp_path / "metrics.csv"
    metrics.touch()
    own = {}
    while process.poll() is None:
        own |= calibration.session_seconds(process.pid)
        time.sleep(0.05)
    assert len(own) == 2  # the child's child counts
    assert 0 < sum(own.values()) < 3
    process = subprocess.Popen(command, text=True, start_new_session=True)
    assert 0 <= calibration.other_cores(process, metrics) <= os.cpu_count()


def test_steps_after_the_warm_up_count(calibration):
    rates, waits = [1.0] * 10 + [160.0, 80.0], [0.9] * 10 + [0.5, 0.25]
    run = calibration.run_of(2, rates, waits, others=0.1)
    assert run.step_seconds == pytest.approx(0.15)  # 16 clips in 0.1 and in 0.2 s
    assert run.clips_per_second == pytest.approx(32 / 0.3)
    assert run.read_seconds == pytest.approx(0.05)
    assert run.spread == pytest.approx(math.sqrt(0.005) / 0.15)


def test_the_demo_network_has_so_many_parameters(calibration):
    from mvrec.models import MViT

    network = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())["model"]["backbone"]["init_args"]
    sizes = {"num_frames": 8, "image_size": 64}  # of the demo's data
    assert sum(each.numel() for each in MViT(**network, **sizes).parameters()) == calibration.PARAMETERS


def test_the_recipes_network_has_so_many_gradient_bytes(sim):
    from mvrec.models import create_model

    network = create_model("mvit_b_16x4", num_classes=400)
    assert sim.Training().gradient_bytes == 4 * sum(each.numel() for each in network.parameters())


@pytest.mark.slow
def test_calibration_measures_real_processes(calibration, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(calibration, "CLIPS_PER_CLASS", 6)  # 9 steps alone, 8 for two processes
    monkeypatch.setattr(calibration, "WARM_UP", 2)
    monkeypatch.setattr(calibration, "COUNTS", (1, 2))
    figures = calibration.calibrate(tmp_path, rounds=1)
    first, second = figures["rows"]
    for key in ("predicted", "predicted_with_its_load"):
        assert first[key] == pytest.approx(first["run"]["clips_per_second"])  # from itself
        assert second[key] > 0
    assert second["run"]["processes"] == 2
    assert second["link"]["bandwidth"] > 0
    assert 0 < second["run"]["read_seconds"] < second["run"]["step_seconds"]
    assert "predicted" in capsys.readouterr().out
    table = lines_of(calibration.summary(figures["rows"]))
    assert [row[0] for row in table[2:]] == ["1", "2"]


def test_summary_gives_median_and_spread(calibration):
    rows = [
        {"predicted": ahead, "predicted_with_its_load": 80, "run": {"processes": 2, "clips_per_second": 100}}
        for ahead in (50, 110, 90)
    ]
    assert lines_of(calibration.summary(rows))[2] == [
        "2", "100.0 (100.0 to 100.0)", "90.0 (50.0 to 110.0)", "-10 (-50 to +10) %", "80.0 (80.0 to 80.0)",
        "-20 (-20 to -20) %",
    ]  # fmt: skip
