"""A run of which nothing but the folder is named."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

SHORT = ["--trainer.limit_train_batches=1", "--data.num_workers=0", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """Two classes of four videos; the tests run next to it."""
    place = tmp_path_factory.mktemp("a newcomer's")
    for name, label in (("move_left", "nach links"), ("grow", "растёт")):
        files = sorted(digits.glob(f"*/{name}/*.mp4"))[:4]
        target = place / "Mes vidéos" / label
        target.mkdir(parents=True)
        for number, file in enumerate(files):
            shutil.copy(file, target / f"clip {number}.mp4")
    return place


@pytest.fixture
def place(folder, monkeypatch):
    monkeypatch.chdir(folder)
    yield folder
    for name in ("runs", "plan.yaml"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True)


def config_of(run: str) -> dict:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def test_a_folder_is_planned_trained_and_resumed_and_its_file_gives_the_same_run(place, command, monkeypatch):
    end = [*SHORT, "--trainer.max_epochs=1"]
    code, _, err = command("fit", "--data.root", "Mes vidéos", *end)
    assert code == 0, err
    plan = err[err.index("the plan for Mes vidéos") : err.index("decoder auto")]
    lines = dict(line.split(maxsplit=1) for line in plan.splitlines()[1:] if line.startswith("  "))
    assert [*lines] == ["found", "split", "machine", "network", "input", "weights", "steps", "rate", "besides", "time"]
    assert lines["found"].startswith("8 videos in 2 classes: nach links 4, растёт 4; 64x64 pixels, 2 s, 16 frames/s")
    assert lines["split"].startswith("6 train (3 of a class), 2 val (1 of a class), by a hash of the paths")
    assert lines["weights"].startswith("none: it learns from the 6 videos alone")
    assert lines["steps"].startswith("1 epoch of 1 step, each of 4 videos (as you set)")
    assert lines["rate"].startswith("AdamW with 0.0005 per step of 4 (0.008 for 64), layer decay 1")
    assert "about" in lines["time"]
    assert "runs/Mes vidéos" in lines["time"]
    first = config_of("runs/Mes vidéos")
    assert first["data"]["init_args"]["augment"]["flip_probability"] == 0  # left is a class

    with (
        monkeypatch.context() as patch
    ):  # what the folder holds by now, or another machine, changes no run that goes on
        patch.setattr(
            "mvrec.cli.request.plan_of", lambda settings, **options: pytest.fail("a resumed run has its plan")
        )
        code, _, err = command("fit", "--data.root", "Mes vidéos", *SHORT, "--trainer.max_epochs=2", "--resume=auto")
    assert code == 0, err
    assert "epoch 2/2" in err
    again = config_of("runs/Mes vidéos")
    again["trainer"]["max_epochs"] = first["trainer"]["max_epochs"]
    assert without(again, "resume", "ckpt_path") == without(first, "resume", "ckpt_path")

    code, out, err = command("init", "Mes vidéos", *end)
    assert (code, out) == (0, "wrote plan.yaml: mvrec fit --config plan.yaml\n"), err
    assert "limit_train_batches: 1  # as you set" in Path("plan.yaml").read_text()
    code, _, err = command("fit", "--config=plan.yaml")
    assert code == 0, err
    assert "the plan for" not in err
    assert config_of("runs/plan") == first
    scores = [json.loads(Path("runs", run, "data.json").read_text()) for run in ("plan", "Mes vidéos")]
    assert scores[0] == scores[1]

    code, _, err = command("init", "Mes vidéos")
    assert code == 2
    assert "--output: plan.yaml exists: remove it, or name another file" in err


def without(config: dict, *keys: str) -> dict:
    return {key: value for key, value in config.items() if key not in keys}


def test_a_run_directory_is_weights_that_decide_network_and_size(place, command, digits_run):
    run = ["fit", "--data.root", "Mes vidéos", *SHORT, "--trainer.max_epochs=1", "--run_dir=runs/b"]
    code, _, err = command(*run, f"--model.weights={digits_run.folder}", "--data.batch_size=3")
    assert code == 0, err
    assert "  network  MViT with" in err
    assert "as the weights are" in err
    assert "each of 3 videos (as you set)" in err
    config = config_of("runs/b")
    assert config["model"]["layer_decay"] == 0.9
    assert config["data"]["init_args"]["clip"]["num_frames"] == 4
    assert config["model"]["backbone"]["init_args"]["embed_dim"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data.root=Mes_videos", "'Mes_videos' does not exist; did you mean 'Mes vidéos'?"),
        ("--data.root=one --data.batch_siez=3", "unknown key 'data.batch_siez'; did you mean 'batch_size'?"),
        ("--data.root=runs", "'runs' is empty"),
        ("--data.root=one", "it has only the class"),
    ],
)
def test_a_wrong_folder_is_one_line_and_nothing_is_written(place, command, arguments, message):
    Path("runs").mkdir()
    Path("one").mkdir(exist_ok=True)
    if not Path("one/a").exists():
        Path("one/a").symlink_to(Path("Mes vidéos/nach links").resolve())
    for name in ("fit", "init"):
        root, *flags = arguments.split()
        code, _, err = command(name, root if name == "fit" else root.removeprefix("--data.root="), *flags)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1, err
    assert not Path("plan.yaml").exists()
    assert not any(Path("runs").iterdir())


@pytest.mark.slow
def test_a_list_of_numbers_is_planned_as_regression_and_its_file_gives_the_same_run(place, command):
    files = sorted(path.relative_to("Mes vidéos") for path in Path("Mes vidéos").glob("*/*.mp4"))
    rows = [f"Mes vidéos/{path},{number}.5\n" for number, path in enumerate(files)]
    Path("zahlen").mkdir(exist_ok=True)
    Path("zahlen/train.csv").write_text("".join(["path,value\n", *(f"../{row}" for row in rows)]))
    end = [*SHORT, "--trainer.max_epochs=1"]
    code, _, err = command("fit", "--data.root=zahlen", *end)
    assert code == 0, err
    assert "8 videos with value 0.5 to 7.5, mean" in err
    assert "6 train, 2 val, by train.csv, fold 1/5" in err
    assert "no flips (they may change a number)" in err
    assert "val: r2 " in err
    config = config_of("runs/zahlen")
    assert config["model"]["class_path"] == "mvrec.tasks.Regression"
    assert config["data"]["init_args"]["augment"]["flip_probability"] == 0
    assert command("init", "zahlen", *end)[0] == 0
    code, _, err = command("fit", "--config=plan.yaml")
    assert code == 0, err
    assert config_of("runs/plan") == config
