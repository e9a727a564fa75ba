"""`mvrec demo` on a small scale: the five lines and the control."""

import re


def test_the_demo_sums_up_in_five_lines(command, tiny, tmp_path):
    config, *overrides = tiny[1:]
    run_dir = tmp_path / "run"
    code, out, err = command("demo", "--config", config, "--run_dir", run_dir, *overrides)
    assert code == 0, err
    lines = out.strip().splitlines()[-5:]
    assert lines[0].startswith("moving digits: 12 motions, 36 training videos in ")
    assert re.fullmatch(r"trained an MViT of 0\.01 M parameters for 1 epochs in [\d.]+ minutes", lines[1])
    assert re.fullmatch(r"test top-1: [\d.]+ % \(24/24 videos scored, 0 failed\)", lines[2])
    assert re.fullmatch(r"control, the same weights .* frames shuffled: [\d.]+ %", lines[3])
    assert lines[4] == f"everything about the run: {run_dir}"
    # Both tests ran, the control on shuffled frames and first: what stays is of the real test.
    tests = [line for line in err.splitlines() if line.startswith("mvrec: test: ")]
    assert ["frames shuffled" in line for line in tests] == [True, False]


def test_a_missing_config_is_one_line(command, tmp_path):
    code, _, err = command("demo", "--config", tmp_path / "none.yaml")
    assert code == 2
    assert err.count("\n") == 1
