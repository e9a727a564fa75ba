"""Errors of libraries about a value, as one plain line with the place of that value and of no other."""

from mvrec.class_paths import reason
from mvrec.cli.config_check import Entry
from mvrec.cli.parse_errors import attempts, explain, located, said_of_key
from mvrec.errors import UserError

GIVEN = [
    Entry("model.backbone", "mvrec.models.MViT", "a.yaml:1", is_class=True),
    Entry("model.backbone.depth", "3", "a.yaml:2"),
    Entry("model.backbone.num_frames", "16", "a.yaml:3"),
    Entry("model.optimizer", "torch.optim.SGD", "a.yaml:4", is_class=True),
    Entry("model.optimizer.betas", "[1.5,0.9]", "--model.optimizer.betas"),
    Entry("data.size", "64", "a.yaml:5"),
    Entry("data.clip.num_frames", "8", "--data.clip.num_frames"),
    Entry("trainer.accelerator", "gpu", "--trainer.accelerator"),
    Entry("trainer.callbacks", "EarlyStopping", "--trainer.callbacks"),
    Entry("trainer.logger", "MLFlowLogger", "a.yaml:6", is_class=True),
    Entry("data.root", "", "--data.root"),
]


def test_a_refusal_is_told_with_the_place_of_the_value_that_it_is_about():
    for message, expected in {
        "depth 3 is too little": "a.yaml:2: model.backbone.depth: depth 3 is too little",
        # The value decides between two keys of one name.
        "num_frames must be even, got 8": "--data.clip.num_frames: num_frames must be even, got 8",
        "num_frames must be odd, got 16": "a.yaml:3: model.backbone.num_frames: num_frames must be odd, got 16",
        # Words of English that happen to be keys.
        "the size of the root is unknown": "the size of the root is unknown",
        "No supported gpu backend found!": "--trainer.accelerator gpu: torch finds no GPU here: use "
        "--trainer.accelerator cpu, or run mvrec doctor",
        "The filesystem tracking backend (e.g., './mlruns') is in maintenance mode. See https://x": "a.yaml:6: "
        "trainer.logger: MLflow keeps runs in a database: add --trainer.logger.tracking_uri sqlite:///mlflow.db",
        "model.optimizer: Invalid beta parameter at index 0: 1.5": "--model.optimizer.betas: Invalid beta parameter "
        "at index 0: 1.5 (got [1.5,0.9])",
        "model.optimizer: it is closed": "a.yaml:4: model.optimizer: it is closed",
        "data.size=64: too large": "a.yaml:5: data.size=64: too large",
        "64: no such file": "a.yaml:5: data.size: 64: no such file",
        "data.sizes: too large": "data.sizes: too large",
        "a.yaml:5: data.size: said already": "a.yaml:5: data.size: said already",
    }.items():
        assert located(message, GIVEN) == expected


def test_what_only_happens_to_name_a_key_is_left_alone_while_a_run_goes_on():
    assert said_of_key("depth 3 is too little", GIVEN) == "depth 3 is too little"
    assert said_of_key("data.size: x", GIVEN) == "a.yaml:5: data.size: x (got 64)"


WALL = """Does not validate against any of the Union subtypes
Errors:
  - Expected a path but foo.Bar either not accessible or invalid
  - Problem with given class_path 'foo.Bar':
    No module named 'foo'
  - Expected a <class 'NoneType'>
Given value: Namespace(class_path='foo.Bar')"""


def test_of_the_attempts_of_jsonargparse_the_telling_one_is_said():
    assert attempts(WALL) == "Problem with given class_path 'foo.Bar': No module named 'foo'"
    assert attempts("depth 3 is too little") == ""
    assert reason(ValueError(WALL)) == attempts(WALL)
    assert reason(UserError("said")) == "said"
    message = explain(f'Parser key "model.backbone":\n\n{WALL}', GIVEN)
    assert message.startswith("a.yaml:1: model.backbone: foo.Bar cannot be imported: no module foo ")
    assert message.endswith("put it next to the --config, or add --trust FOLDER/foo.py")


def test_what_jsonargparse_says_of_the_command_line_names_the_flag():
    entries = [*GIVEN, Entry("trainer.precision", "fp16", "--trainer.precision")]
    needed = "the following arguments are required: "
    for message, expected in {
        f"{needed}fit.model.backbone": "which network? --model.backbone NAME",
        f"{needed}fit.data.root": "--data.root is required",
        f"{needed}monitor": "--trainer.callbacks: EarlyStopping needs --trainer.callbacks.monitor",
        "argument --data: expected one argument": "--data.root needs a value",
        "Parser key \"trainer.precision\":\n Expected a <class 'int'>": "trainer.precision: unknown precision 'fp16'; "
        "did you mean '16-mixed'?",
    }.items():
        assert expected in explain(message, entries)
