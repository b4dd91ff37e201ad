"""Every bad input: refused by `plan` or before, with a message that says what to change, and nothing is
computed."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from servers import free_port
from tiny import (
    ALONE,
    CONFIG,
    SHARDED,
    configured,
    evaluated,
    fill,
    from_folder,
    image_folder,
    nothing_computed,
    pipeline,
    planned,
    ran,
    record_path,
    root,
    snapshot,
    unmodified,
)

from apportion import cli, stages
from apportion.errors import (
    ConfigError,
    Damaged,
    DataError,
    DiffusionError,
    PropertyError,
    StoreError,
    TrackingError,
)
from apportion.stages import plan
from apportion.store.layout import reference_key, weights_key
from pipelines.__main__ import main as pipelines_main


def refused(workdir, kind, *overrides, words=()):
    """Plans with these overrides; asserts the error and words in its message, and that nothing was made."""
    with pytest.raises(kind) as caught:
        plan.run(configured(workdir, *overrides))
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert nothing_computed(workdir)
    assert not [*workdir.rglob("rounds/*")]


@pytest.fixture
def command_refused(monkeypatch, caplog, capsys):
    """Runs a command in this process; asserts exit code 1 and a single message, with these words. Returns its
    lines."""
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)

    def run(main, *arguments, words=()):
        caplog.clear()
        assert main([str(argument) for argument in arguments]) == 1
        assert capsys.readouterr().out == ""
        (message,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
        assert message.startswith("apportion: ")
        assert not [word for word in words if word not in message], message
        return message.splitlines()

    return run


# The configuration


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("valuation.coalitionz=12", ["valuation.coalitionz", "found 12"]),
        ("retries=3", ["retries", "found 3"]),
        ("valuation.coalitions=many", ["valuation.coalitions", "integer", "found 'many'"]),
        ("valuation.coalitions=12.5", ["valuation.coalitions", "found 12.5"]),
        ("train.steps='20'", ["train.steps", "found '20'"]),
        ("train.lr=0", ["train.lr", "greater than 0"]),
        ("properties=fid", ["properties", "list"]),
        ("properties=[]", ["properties"]),
        ("sampling.images=8", ["sampling.images", "found 8"]),
        ("removal.method=unlearn", ["removal", "found"]),
        ("removal={method: finetune}", ["removal", "fitting"]),
        ("data.source=folder", ["data.path", "Field required"]),
        ("data.source=imagenet", ["data", "imagenet"]),
        ("model.channels=[16]", ["attention", "channels"]),
        ("compute.shards=0", ["compute.shards"]),
        ("project=../x", ["project", "found '../x'"]),
        ("project=a/b", ["project"]),
        ("project=''", ["project"]),
        ("project=.hidden", ["project"]),
    ],
)
def test_wrong_options(tmp_path, override, words):
    refused(tmp_path, ConfigError, override, words=[*words, "tiny.yaml is not a valid configuration"])


@pytest.mark.parametrize("override", ["valuation.coalitions", "=3", "../x=1", "a b=1", "project.name=x"])
def test_wrong_overrides(tmp_path, override):
    refused(tmp_path, ConfigError, override, words=["--set", override])


def test_a_typing_error_in_an_override_ends_the_process():
    """The command as a user runs it: one message, and no traceback."""
    code, out, err = ran(*pipeline(Path("/nowhere"), "valuation.coalitons=12"))
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    assert "valuation.coalitons" in err
    assert "found 12" in err
    assert len(err.splitlines()) == 2  # which configuration, and what is wrong in it
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize("text", ["project: [", "- a list\n", "\x00", "", "project: tiny\nproject: [}"])
def test_files_that_are_not_a_configuration(tmp_path, text, command_refused):
    config, workdir = tmp_path / "config.yaml", tmp_path / "work"
    config.write_text(text)
    command_refused(cli.main, "plan", config, "--workdir", workdir, words=["config.yaml"])
    assert not workdir.exists()


def test_a_missing_configuration(tmp_path, command_refused):
    config = tmp_path / "config.yaml"
    words = ["cannot read the configuration", str(config)]
    assert len(command_refused(cli.main, "plan", config, words=words)) == 1


# Store, work folder and tracking server


@pytest.mark.parametrize(
    "store",
    [
        *("ftp://host/x", "work/store", "file://relative", "s3://"),
        *("s3://bucket/../x", "gs://bucket/x", "/tmp/x"),
    ],
)
def test_wrong_addresses_of_stores(tmp_path, store):
    words = [store, "file:///absolute/folder or s3://bucket/prefix", "option `store`"]
    refused(tmp_path, StoreError, f"store={store}", words=words)


def test_a_work_folder_that_cannot_be_made(tmp_path, command_refused):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    arguments = [CONFIG, "--workdir", taken / "work", "--set", ALONE]
    words = ["cannot make the work folder", "taken/work", "--workdir"]
    command_refused(pipelines_main, "run", *arguments, words=words)
    words = ["cannot be used as a store", "taken/work/store", "option `store`"]
    command_refused(cli.main, "plan", *arguments, words=words)
    assert taken.read_text() == "mine"


def test_a_store_that_cannot_be_written(tmp_path):
    """Root may write anywhere except where a folder cannot be made."""
    store = "/proc/nowhere/store"
    words = [store, "writable folder", "option `store`"]
    refused(tmp_path, StoreError, f"store=file://{store}", words=words)


def test_a_missing_tracking_server_is_reported_before_images_are_read(tmp_path):
    """Within seconds, and before any compute."""
    start, url = time.monotonic(), f"http://127.0.0.1:{free_port()}"
    missing = "data={source: folder, path: /nowhere, resolution: 16}"
    words = [url, "refused", "tracking.uri=null"]
    refused(tmp_path, TrackingError, f"tracking.uri={url}", missing, words=words)
    assert time.monotonic() - start < 30


def test_a_pipeline_without_its_tracking_server_ends_in_seconds_and_says_why(tmp_path, forks):
    """Its exit handler too, which looks at the server for runs that were left open."""
    start, url = time.monotonic(), f"http://127.0.0.1:{free_port()}"
    code, out, err = forks.run(*pipeline(tmp_path, f"tracking.uri={url}"))
    assert time.monotonic() - start < 120  # with MLflow's own retries it takes nine minutes
    assert code == 1
    assert f"MLflow at {url} cannot open its experiment" in out
    assert f"MLflow at {url} cannot end the runs of job" in out
    assert "Retrying" not in out + err
    assert nothing_computed(tmp_path)


# The device


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")


@NO_CUDA
def test_a_gpu_may_be_missing_where_a_round_is_planned_but_not_where_it_is_computed(tmp_path):
    this_round = planned(tmp_path, "compute.device=cuda")
    generated = [game for game in this_round.games.values() if game.recipe.removal.generates]
    assert {game.recipe.precision for game in generated} == {"bf16"}
    expected = r"found no CUDA device on this machine, expected one for compute\.device: cuda"
    for stage in ("train", "prune", "finetune", "sample"):
        with pytest.raises(ConfigError, match=expected):
            stages.run(stage, this_round.uri)
    assert not [*tmp_path.rglob("checkpoints")]


@NO_CUDA
def test_a_pipeline_here_needs_its_gpu_here(tmp_path, command_refused):
    arguments = [CONFIG, "--workdir", tmp_path / "work", "--set", "compute.device=cuda"]
    words = ["found no CUDA device", "compute.device: cuda"]
    assert len(command_refused(pipelines_main, "run", *arguments, words=words)) == 1
    assert not (tmp_path / "work").exists()


# Images and their contributors


@pytest.fixture
def images(tmp_path):
    """A folder with valid images of ada, bob, cy and dee."""
    return image_folder(tmp_path / "data", ["ada", "bob", "cy", "dee"], images=3)


def test_valid_images_are_planned(images, tmp_path):
    """So the tests below are about the one fault of each."""
    assert planned(tmp_path / "work", *from_folder(images)).manifest.names == ["ada", "bob", "cy", "dee"]


def test_a_contributor_without_images(images, tmp_path):
    (images / "eve").mkdir()
    words = ["found 0 images for contributor 'eve'", "at least 2", "data.min_images"]
    refused(tmp_path / "work", DataError, *from_folder(images), words=words)


def test_a_contributor_with_too_few_images(images, tmp_path):
    (images / "bob" / "0.png").unlink()
    (images / "bob" / "1.png").unlink()
    words = ["found 1 images for contributor 'bob'", "need at least 2", "data.min_images"]
    refused(tmp_path / "work", DataError, *from_folder(images), words=words)
    words = ["'Sofie Ascherl'", "need at least 50"]
    refused(tmp_path / "drawings", DataError, "data.min_images=50", words=words)


def test_unreadable_images_are_named(images, tmp_path):
    truncated = images / "cy" / "1.png"
    truncated.write_bytes(truncated.read_bytes()[:-400])
    (images / "dee" / "2.png").write_text("not an image")
    words = ["found 2 files that cannot be read", "cy/1.png", "dee/2.png", "data.path"]
    with unmodified(truncated):
        refused(tmp_path / "work", DataError, *from_folder(images), words=words)


def test_images_of_other_sizes(images, tmp_path):
    """They are refused, unless data.resize=crop takes the middle square and shrinks it; none is enlarged."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(images / "ada" / "large.png")
    words = ["ada/large.png: 30x20", "expected 16x16", "data.resize=crop"]
    refused(tmp_path / "work", DataError, *from_folder(images), words=words)
    cropped = from_folder(images, "data.resize=crop")
    assert planned(tmp_path / "cropped", *cropped).manifest.contributors[0].samples == 4
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images / "bob" / "small.png")
    words = ["bob/small.png: 8x8", "smaller than 16x16", "data.resolution"]
    refused(tmp_path / "work", DataError, *cropped, words=words)


def test_images_of_other_modes_become_rgb(images, tmp_path):
    """Grey, 16-bit grey, palette, and transparency on white."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(images / "ada" / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(images / "ada" / "deep.png")
    Image.fromarray(grey).convert("P").save(images / "bob" / "palette.gif")
    Image.fromarray(np.zeros((16, 16, 4), np.uint8)).save(images / "bob" / "clear.png")
    this_round = planned(tmp_path / "work", *from_folder(images))
    assert [c.samples for c in this_round.manifest.contributors] == [5, 5, 3, 3]


def test_an_image_given_twice_is_warned_of_with_both_names(images, tmp_path, caplog):
    shutil.copy(images / "ada" / "0.png", images / "dee" / "copied.png")
    planned(tmp_path / "work", *from_folder(images))
    both = "'ada' (ada/0.png) and 'dee' (dee/copied.png)"
    assert f"the same image was given by {both}: they share the credit for it" in caplog.text


def manifest_file(images, header, rows):
    """A table of contributors beside the images."""
    path = images / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_dates_that_change_later_are_warned_of(images, tmp_path, caplog):
    files = [f"{name}/{i}.png,{name}" for name in ("ada", "bob", "cy", "dee") for i in range(3)]
    warning = "labels or dates of joining of ada, bob, cy, dee differ from those of the stored manifest"
    for joined in ("2024-01-01", "2025-01-01"):
        assert warning not in caplog.text
        rows = [f"{file},{joined}" for file in files]
        table = manifest_file(images, "path,contributor,joined", rows)
        this_round = planned(tmp_path / "work", *from_folder(table))
    assert warning in caplog.text
    assert {c.joined for c in this_round.manifest.contributors} == {"2024-01-01"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("ada/0.png,../x", ["'../x'", "contributor names that cannot be used"]),
        ("../secret.png,ada", ["'../secret.png'", "contain '..'"]),
        ("/etc/passwd,ada", ["'/etc/passwd'", "absolute"]),
        ("ada/none.png,ada", ["ada/none.png", "lead to no file"]),
        (",ada", ["no path"]),
        ("ada/0.png,", ["no contributor"]),
    ],
)
def test_wrong_names_and_paths_in_a_manifest(images, tmp_path, row, words):
    rows = [f"{name}/{i}.png,{name}" for name in ("ada", "bob", "cy", "dee") for i in (1, 2)]
    table = manifest_file(images, "path,contributor", [*rows, row])
    refused(tmp_path / "work", DataError, *from_folder(table), words=words)
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "work"}


def test_unknown_designers(tmp_path):
    words = ["'Emily Jaeger'", "did you mean", "data.contributors"]
    refused(tmp_path, ConfigError, "data.contributors=[Emily Jaeger, Lisa Thiel]", words=words)


def test_missing_images(tmp_path):
    refused(tmp_path, DataError, *from_folder(tmp_path / "none"), words=["none", "data.path"])


def test_bad_images_end_the_pipeline_with_one_message(images, tmp_path, forks):
    """Through KFP, whose component fails: the message of the stage, the name of the stage, and no
    traceback."""
    (images / "dee" / "2.png").write_text("not an image")
    code, out, err = forks.run(*pipeline(tmp_path / "work", *from_folder(images), "tracking.uri=null"))
    assert code == 1
    assert out.splitlines()[0] == "plan"
    assert (out + err).count("dee/2.png: ") == 1
    assert "the pipeline stopped in plan, see above" in err
    for word in ("Traceback", "KFP", "FAILURE", "train"):
        assert word not in out + err
    assert nothing_computed(tmp_path / "work")


# Properties, networks and numbers of coalitions


def test_an_unknown_property(tmp_path):
    words = ["found property 'fdi'", "did you mean fid?", "option properties"]
    refused(tmp_path, PropertyError, "properties=[fdi]", words=words)


def test_a_missing_feature_network(tmp_path):
    words = ["/nowhere/net.safetensors", "option network"]
    refused(tmp_path, PropertyError, "network=/nowhere/net.safetensors", words=words)
    (tmp_path / "net.safetensors").write_bytes(b"not a network")
    words = ["found no feature network", "net.safetensors", "option network"]
    refused(tmp_path, PropertyError, f"network={tmp_path}/net.safetensors", words=words)


def test_no_network_is_read_where_none_is_needed(tmp_path):
    overrides = ("properties=[colourfulness_p90]", "evaluation.counterfactual=null")
    assert plan.run(configured(tmp_path, "network=/nowhere", *overrides)).work


STOP = {"looks": [12, 48], "rule": "width", "target": 1}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("valuation.coalitions=6", ["4 contributors", "valuation.coalitions"]),
        ("valuation.methods=[leverage, kernelshap]", ["['kernelshap'] beside design 'leverage'"]),
        (f"valuation={json.dumps({'coalitions': 48, 'stop': STOP})}", ["at most the 14 there are"]),
        ("evaluation.held_out=7", ["4 contributors", "evaluation.held_out"]),
        ("evaluation.counterfactual.random=4", ["evaluation.counterfactual.random"]),
    ],
)
def test_methods_and_coalitions_that_give_no_credits(tmp_path, override, words):
    """All that is refused is in tests/planning/test_checks.py; here it is `plan` that refuses."""
    refused(tmp_path, ConfigError, override, words=words)


# Damaged records and models


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_evaluation_ends_the_command(tmp_path, command_refused):
    this_round = planned(tmp_path)
    fill(this_round, lambda mask, *_: float(mask.sum()))
    path = record_path(this_round, 7)
    alter(path)
    options = ("--workdir", tmp_path, "--set", ALONE, "--set", "tracking.uri=null")
    with unmodified(path):
        lines = command_refused(
            cli.main, "plan", CONFIG, *options, words=[path.name, "sha256", "not overwritten"]
        )
    assert len(lines) == 1


def test_a_truncated_checkpoint_ends_the_command(ready, command_refused):
    path = root(ready.uri) / weights_key(ready.game("credit").recipe.start.id)
    truncate(path)
    with unmodified(path):
        words = [f"{path.name}: sha256", "not overwritten"]
        command_refused(cli.main, "finetune", ready.uri, words=words)


def reported(path, damage, run):
    """Asserts that a stage reports a damaged object and leaves it as it is; then repairs the object."""
    checksum = path.with_name(f".{path.name}.sha256")
    before = path.read_bytes(), checksum.read_bytes()
    damage(path)
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256 .* not overwritten"):
        run()
    path.write_bytes(before[0])
    checksum.write_bytes(before[1])


def references(this_round):
    """The keys of what properties compare images with."""
    measurements = this_round.game("credit").properties
    return {reference_key(item.reference) for item in measurements if item.reference is not None}


def contents(this_round):
    return {name: data for name, (_, _, data) in snapshot(root(this_round.uri)).items()}


def test_damaged_models_stop_at_plan(ready, ready_config):
    """Everything that all coalitions start from, or are measured by, is read before any of them is made."""
    assert plan.run(ready_config).work
    before = contents(ready)
    models = [ready.plan.base.id, ready.game("credit").recipe.start.id]
    for key in (*map(weights_key, models), *references(ready)):
        reported(root(ready.uri) / key, truncate, lambda: plan.run(ready_config))
    assert contents(ready) == before


def test_damage_is_reported_by_the_stage_that_reads_it(ready):
    """Training images by `finetune`, the model of a coalition by `sample`, its images and the reference by
    `score`."""
    item = ready.pending(0)[0]
    training_images = next((root(ready.uri) / "images").glob("*.safetensors"))
    reported(training_images, alter, lambda: stages.run("finetune", ready.uri, 0))
    evaluated(ready.uri, SHARDED[:1])
    (weights,) = ready.weights_keys(item)
    reported(root(ready.uri) / weights, alter, lambda: stages.run("sample", ready.uri, 0))
    evaluated(ready.uri, SHARDED[1:2])
    for key in (ready.samples_key(item), *references(ready)):
        reported(root(ready.uri) / key, alter, lambda: stages.run("score", ready.uri, 0))
    wanted = {item.key for item in ready.plan.wanted}
    assert evaluated(ready.uri, SHARDED[2:]) == {"score": len(wanted)}  # once repaired, it goes on


# Models that diverge


@pytest.mark.parametrize("option", ["train.lr", "removal.pruning.retune.lr"])
def test_a_model_that_diverges_stops_the_round_and_is_not_stored(tmp_path, option):
    this_round = planned(tmp_path, f"{option}=1.0e+38", "evaluation.counterfactual=null", "train.steps=2")
    diverging = "train"
    if option != "train.lr":
        stages.run("train", this_round.uri)
        diverging = "prune"
    before = set(tmp_path.rglob("checkpoints/*"))
    with pytest.raises(DiffusionError, match=rf"weight tensors not finite.* lower {option}"):
        stages.run(diverging, this_round.uri)
    assert set(tmp_path.rglob("checkpoints/*")) == before


def test_the_message_of_a_task_is_printed_once(tmp_path, forks):
    """On a cluster a task that fails is retried, as its node may have failed; here there are no retries,
    which would print the same message three times."""
    diverging = ("tracking.uri=null", "train.lr=1.0e+30", "train.steps=2")
    code, out, err = forks.run(*pipeline(tmp_path / "work", *diverging))
    assert code == 1
    tasks = [line for line in out.splitlines() if line in ("plan", "train", "prune", "close")]
    assert tasks == ["plan", "train", "close"]
    assert (out + err).count("training diverged at train.lr") == 1
    assert "the pipeline stopped in train, see above" in err
