"""Wrong requests of all commands but those of Lightning: one line that helps, and nothing is left behind."""

import shlex

import pytest
import torch
from PIL import Image

from mvrec.models import create_model

# Per command the arguments, and what the answer has.
WRONG = {
    "explain": [
        ("a.mp4 --ckpt run -o a.png --class orbit_clokwise", "'orbit_clokwise' is not one of the 12 classes; did you"),
        ("a.mp4 --ckpt run -o a.png --class 12", "'12' is not one of the 12 classes"),
        ("a.mp4 --ckpt run -o a.png --stage 2", "no stage 2: this network has the stages 0..1"),
        ("a.mp4 --ckpt run -o a.png --method rollout --stage 0", "a stage is for cam and layercam"),
        ("a.mp4 --ckpt run -o a.png --clip 1", "no clip 1: the protocol has the clips 0..0"),
        ("nothing.mp4 --ckpt run -o a.png", "no such file"),
        ("empty --ckpt run -o a.png", "is a directory"),
        ("broken.mp4 --ckpt run -o a.png", "no video, damaged or cut short"),
        ("a.jpg --ckpt run -o a.jpg", "output must end in .mp4 or .png"),
        ("a.mp4 --ckpt run -o a.mp4", "--output is the source itself"),
        ("a.mp4 --ckpt run -o file/a.png", "cannot write file/a.png: "),
        ("a.jpg --ckpt images -o b.mp4", "no video comes of an image: the output must end in .png"),
        ("a.jpg --ckpt images -o a.png --method rollout", "rollout and relevance follow the attention of MViT"),
    ],
    "extract": [
        ("a.mp4 --ckpt run -o out --stage 2", "no stage 2: this network has the stages 0..1"),
        ("a.mp4 --ckpt run -o out --pool none", "without --stage there is one vector per clip"),
        ("a.mp4 --ckpt run", "where to? -o FOLDER for a file each, --table FILE for one table, or both"),
        ("a.mp4 --ckpt run --table t.xlsx", "--table must end in .parquet, .npz, .csv, got 't.xlsx'"),
        ("a.mp4 --ckpt run -o out --table t.csv --shard 1/2", "run the shards with -o, then once more with --table"),
        ("a.mp4 --ckpt run --table t.csv --stage 0 --pool none", "one vector per row: leave out --pool and --format"),
        ("a.mp4 --ckpt run -o out --stride 1", "add --window"),
        ("a.mp4 --ckpt run -o out --window 0", "--window must be above 0"),
        ("a.mp4 --ckpt run -o out --shard 0/2", "--shard must be I/N with I in 1..N, such as 2/8, got '0/2'"),
        ("a.mp4 --ckpt run -o out --batch_size 0", "--batch_size must be at least 1, got 0"),
        ("a.jpg --ckpt images -o out --window 1", "--window is for videos"),
        ("empty --ckpt run -o out", "there is no video in empty"),
        ("*.avi --ckpt run -o out", "*.avi"),
        ("nothing.mp4 --ckpt run -o out", "nothing.mp4"),
        ("a.mp4 copy/a.mp4 --ckpt run -o out", "would both be written as a.mp4"),
        ("a.mp4 --ckpt run -o file", "cannot write file/extract.json: "),
        ("a.mp4 --ckpt run -o copy", "was not written by mvrec"),
    ],
    "recognize": [
        ("nothing.mp4 --ckpt run", "there is no file or folder 'nothing.mp4'"),
        ("empty --ckpt run", "there is no video in empty; this network takes videos"),
        (". --ckpt run --top=0", "--top must be at least 1, got 0"),
        (". --ckpt run --window=0", "--window must be above 0, got 0"),
        (". --ckpt run --stride=1", "--stride is the distance between windows: add --window"),
        (". --ckpt run --protocol=imagenet-mvit", "this protocol is for images, the network takes videos"),
        ("a.jpg --ckpt images --window=1", "--window is for videos"),
        ("7 . --ckpt run", "a camera or stream is recognised by itself: 7 came with other sources"),
        ("99 --ckpt run", "camera 99 (/dev/video99) cannot be opened: "),
        ("http://127.0.0.1:9/x.mp4 --ckpt run", "stream http://127.0.0.1:9/x.mp4 cannot be opened: "),
        (". --ckpt none.ckpt", "--ckpt: there is no checkpoint 'none.ckpt'"),
    ],
    "export": [
        ("images -o m.pt", "must end in .onnx, .pt2, .safetensors, got 'm.pt'; did you mean '.pt2'?"),
        ("images -o m.onnx --opset 9", "--opset must lie in 18..23, got 9"),
        ("none.ckpt -o m.onnx", "CKPT: there is no checkpoint 'none.ckpt'"),
        ("empty -o m.onnx", "CKPT: empty is a folder without checkpoints/best.ckpt, "),
        ("a.safetensors -o a.safetensors", "--output is the source itself: a.safetensors"),
        ("text.ckpt -o m.onnx", "CKPT: text.ckpt: damaged, truncated or not a torch checkpoint"),
        ("file -o m.onnx", "CKPT: file: the file is empty"),
        ("weights.pth -o m.pt2", "weights.pth has 3 classes and does not name them: --classes FILE"),
        ("images -o m.pt2 --classes two.txt", "--classes=two.txt has 2 names, "),
        ("images -o m.pt2 --classes ''", "data.classes=: there is no such file"),
        ("hf://a -o m.onnx", "'hf://a' is not a model of the Hub"),
    ],
    "convert": [
        (
            "images -o w.safetensors",
            "best.ckpt: the network of this run is none of the zoo: mvrec export writes it as it",
        ),
        ("weights.pth -o w.pth", "let --output end in .safetensors"),
        ("weights.pth -o w.safetensors --model cloformer_s", "the weights are not those of cloformer_s"),
        ("weights.pth -o w.safetensors --model cloformer", "the zoo has no model 'cloformer'; did you mean"),
        ("cut.pth -o w.safetensors", "cut.pth: truncated: an unfinished download or copy"),
        ("a.safetensors -o a.safetensors", "--output is the source itself"),
    ],
    "hub": [
        ("", "the following arguments are required: push|pull (mvrec hub --help)"),
        ("push none.ckpt me/digits", "CKPT: there is no checkpoint 'none.ckpt'"),
        ("push images hf://digits", "'hf://digits' is not a model of the Hub: write hf://user/name"),
        ("push images file", "file: is a file, give a folder"),
        ("push images ./x --branch b", "--branch is for a repository of the Hub, and ./x is a folder"),
        ("pull digits -o x", "'digits' is neither a folder nor a model of the Hub, which is user/name"),
    ],
    "report": [
        ("", "the following arguments are required: RUN (mvrec report --help)"),
        (". --mistakez 3", "arguments: --mistakez 3; did you mean '--mistakes'? (mvrec report --help)"),
        ("nowhere", "there is no such directory"),
        ("empty", "is not a run directory"),
        ("file", "not a file in it"),
        (". --mistakes -1", "must be at least 0"),
        (". --root nowhere", "no such directory"),
        (". -o ''", "is a folder: name the file in it"),
        ("run -o file/report.html", "cannot be written"),
    ],
    "doctor": [
        ("--dist 0", "--dist: a number of processes, 1 or more, and not '0' (mvrec doctor --help)"),
        ("--dist --timeout 0", "--timeout must be above 0"),
    ],
    "models": [("shunted_x", "no model matches 'shunted_x'; did you mean 'shunted_")],
    "prep": [("rezise", "unknown job 'rezise'; did you mean 'resize'? (mvrec prep --help lists them)")],
    "demo": [("--config none.yaml", "none.yaml")],
    "demo-images": [("--configs none.yaml", "none.yaml")],
}


@pytest.fixture(scope="module")
def folder(run_dir, image_run, digits, tmp_path_factory):
    """A folder with runs, videos and images, and files that are none."""
    folder = tmp_path_factory.mktemp("folder")
    for name in ("empty", "copy"):
        (folder / name).mkdir()
    (folder / "run").symlink_to(run_dir)
    (folder / "images").symlink_to(image_run)
    for name in ("a.mp4", "copy/a.mp4"):
        (folder / name).symlink_to(digits / "test/orbit_clockwise/00001.mp4")
    Image.new("RGB", (90, 70), (200, 30, 90)).save(folder / "a.jpg")
    torch.save(create_model("cloformer_xxs", num_classes=3).state_dict(), folder / "weights.pth")
    (folder / "cut.pth").write_bytes((folder / "weights.pth").read_bytes()[:1000])
    for name, text in {
        "file": "",
        "text.ckpt": "no checkpoint at all",
        "broken.mp4": "no video" * 100,
        "a.safetensors": "{}",
        "two.txt": "a\nb\n",
        "copy/extract.json": "not mvrec's",
    }.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_one_line_and_leaves_nothing(command, folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    for line, message in WRONG[name]:
        code, out, err = command(name, *shlex.split(line))
        assert (code, out) == (2, ""), (line, err)
        assert [text.startswith("mvrec: error: ") for text in err.splitlines()].count(True) == 1, err
        assert message in err.splitlines()[-1], line
        assert sorted(folder.rglob("*")) == before, line
