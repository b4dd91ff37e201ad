"""Every bad input through the real entry points: refused at `plan` or before, in words that help, and nothing is computed."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from servers import free_port
from tiny import ALONE, CONFIG, SHARDED, evaluated, fill, from_folder, give, kept, nothing_made, plan, planned, ran, root, snapshot, told

from apportion.errors import ConfigError, Damaged, DataError, DiffusionError, PropertyError, StoreError, TrackingError
from apportion.ledger import record_key
from apportion.stages import finetune, prune, sample, score, train
from apportion.stages.round import reference_key, weights_key

KERNEL = "valuation.design=shapley_kernel"


def refused(workdir, kind, *overrides, says=()):
    """Plans with these overrides; asserts the error, what it says, and that nothing was made. Returns the message."""
    with pytest.raises(kind) as caught:
        plan.run(told(workdir, *overrides))
    assert not [word for word in says if word not in str(caught.value)], str(caught.value)
    assert nothing_made(workdir)
    assert not list(workdir.rglob("rounds/*"))
    return str(caught.value)


def process_refused(*arguments, says=()):
    """Runs a command; asserts exit code 1 and one clear message without a traceback. Returns it."""
    code, out, err = ran(*arguments)
    assert (code, out) == (1, ""), out + err
    assert "Traceback" not in err
    assert not [word for word in says if word not in err], err
    return err


# The configuration


@pytest.mark.parametrize(
    ("override", "says"),
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
        ("removal.method=unlearn", ["removal", "found 'unlearn'"]),
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
def test_options_that_are_none(tmp_path, override, says):
    refused(tmp_path, ConfigError, override, says=[*says, "tiny.yaml is not a valid configuration"])


@pytest.mark.parametrize("override", ["valuation.coalitions", "=3", "../x=1", "a b=1", "project.name=x"])
def test_overrides_that_are_none(tmp_path, override):
    refused(tmp_path, ConfigError, override, says=["--set", override])


def test_a_typing_error_in_an_override_ends_the_command():
    err = process_refused(
        "-m",
        "pipelines",
        "run",
        CONFIG,
        "--workdir",
        "/nowhere",
        "--set",
        "valuation.coalitons=12",
        says=["valuation.coalitons", "found 12"],
    )
    assert len(err.splitlines()) == 2  # whose configuration, and what is wrong in it
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize("text", ["project: [", "- a list\n", "\x00", "", "project: tiny\nproject: [}"])
def test_files_that_are_no_configuration(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    process_refused("-m", "apportion", "plan", tmp_path / "config.yaml", "--workdir", tmp_path / "work", says=["config.yaml"])
    assert not (tmp_path / "work").exists()


def test_a_configuration_that_is_not_there(tmp_path):
    err = process_refused("-m", "apportion", "plan", tmp_path / "config.yaml", says=["cannot read the configuration", "config.yaml"])
    assert len(err.splitlines()) == 1


# Where things are kept


@pytest.mark.parametrize("store", ["ftp://host/x", "work/store", "file://relative", "s3://", "s3://bucket/../x", "gs://bucket/x", "/tmp/x"])
def test_stores_that_are_none(tmp_path, store):
    refused(tmp_path, StoreError, f"store={store}", says=[store, "file:///absolute/folder or s3://bucket/prefix", "option `store`"])


def test_a_work_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("mine")
    told_ = [CONFIG, "--workdir", tmp_path / "taken" / "work", "--set", ALONE]
    process_refused("-m", "pipelines", "run", *told_, says=["cannot make the work folder", "taken/work", "--workdir"])
    process_refused("-m", "apportion", "plan", *told_, says=["cannot be used as a store", "taken/work/store", "option `store`"])
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_store_that_cannot_be_written(tmp_path):
    """Root may write anywhere but where there is no folder to write to."""
    refused(tmp_path, StoreError, "store=file:///proc/nowhere/store", says=["/proc/nowhere/store", "writable folder", "option `store`"])


def test_a_tracking_server_that_is_not_there(tmp_path):
    """Known before any compute, and in seconds."""
    began, url = time.monotonic(), f"http://127.0.0.1:{free_port()}"
    refused(tmp_path, TrackingError, f"tracking.uri={url}", says=[url, "refused", "tracking.uri=null"])
    assert time.monotonic() - began < 30


def test_a_pipeline_without_its_tracking_server_ends_in_seconds_and_says_why(tmp_path):
    """Its exit handler too, which asks the server for runs that were left open: that server is known to be away."""
    began, url = time.monotonic(), f"http://127.0.0.1:{free_port()}"
    code, out, err = ran("-m", "pipelines", "run", CONFIG, "--workdir", tmp_path, "--set", ALONE, "--set", f"tracking.uri={url}")
    assert time.monotonic() - began < 240  # most of it imports, slow on a busy machine; to go on asking takes nine minutes
    assert code == 1
    assert f"MLflow at {url} cannot open its experiment" in out
    assert f"MLflow at {url} cannot end the runs of job" in out
    assert "Retrying" not in out + err
    assert nothing_made(tmp_path)


def test_the_tracking_server_is_asked_before_images_are_read(tmp_path):
    refused(
        tmp_path, TrackingError, f"tracking.uri=http://127.0.0.1:{free_port()}", "data={source: folder, path: /nowhere, resolution: 16}"
    )


# The device


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_a_gpu_may_be_missing_where_a_round_is_planned_but_not_where_it_is_computed(tmp_path):
    round = planned(tmp_path, "compute.device=cuda")
    assert (round.credit_game.recipe.precision, round.truth_game.recipe.precision) == ("bf16", "bf16")
    for stage in (train, prune, finetune, sample):
        with pytest.raises(ConfigError, match=r"found no CUDA device on this machine, expected one for compute\.device: cuda"):
            stage.run(round.uri)
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_a_pipeline_here_needs_its_gpu_here(tmp_path):
    run = ["-m", "pipelines", "run", CONFIG, "--workdir", tmp_path / "work", "--set", "compute.device=cuda"]
    err = process_refused(*run, says=["found no CUDA device", "compute.device: cuda"])
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "work").exists()


# Images and who gave them


@pytest.fixture
def gifts(tmp_path):
    """Sound images of ada, bob, cy and dee."""
    return give(tmp_path / "data", ["ada", "bob", "cy", "dee"], images=3)


def test_sound_images_are_planned(gifts, tmp_path):
    """So that what is refused below is refused for its one fault."""
    assert planned(tmp_path / "work", *from_folder(gifts)).manifest.names == ["ada", "bob", "cy", "dee"]


def test_a_contributor_without_images(gifts, tmp_path):
    (gifts / "eve").mkdir()
    refused(
        tmp_path / "work", DataError, *from_folder(gifts), says=["found 0 images for contributor 'eve'", "at least 2", "data.min_images"]
    )


def test_a_contributor_with_too_few_images(gifts, tmp_path):
    (gifts / "bob" / "0.png").unlink()
    (gifts / "bob" / "1.png").unlink()
    refused(
        tmp_path / "work",
        DataError,
        *from_folder(gifts),
        says=["found 1 images for contributor 'bob'", "need at least 2", "data.min_images"],
    )
    refused(tmp_path / "drawings", DataError, "data.min_images=50", says=["'Sofie Ascherl'", "need at least 50"])


def test_an_unreadable_image_is_named(gifts, tmp_path):
    whole = (gifts / "cy" / "1.png").read_bytes()
    (gifts / "cy" / "1.png").write_bytes(whole[: len(whole) // 2])
    (gifts / "dee" / "2.png").write_text("not an image")
    with kept(gifts / "cy" / "1.png"):
        refused(
            tmp_path / "work",
            DataError,
            *from_folder(gifts),
            says=["found 2 files that cannot be read", "cy/1.png", "dee/2.png", "data.path"],
        )


def test_images_of_other_sizes(gifts, tmp_path):
    """The rule: refused, unless data.resize=crop takes the middle square and shrinks it; nothing is ever enlarged."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(gifts / "ada" / "large.png")
    refused(tmp_path / "work", DataError, *from_folder(gifts), says=["ada/large.png: 30x20", "expected 16x16", "data.resize=crop"])
    cropped = from_folder(gifts, "data.resize=crop")
    assert planned(tmp_path / "cropped", *cropped).manifest.contributors[0].samples == 4
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(gifts / "bob" / "small.png")
    refused(tmp_path / "work", DataError, *cropped, says=["bob/small.png: 8x8", "smaller than 16x16", "data.resolution"])


def test_images_of_other_modes_are_made_one(gifts, tmp_path):
    """Grey, 16-bit grey, palette and transparency on white: all become RGB."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(gifts / "ada" / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(gifts / "ada" / "deep.png")
    Image.fromarray(grey).convert("P").save(gifts / "bob" / "palette.gif")
    Image.fromarray(np.zeros((16, 16, 4), np.uint8)).save(gifts / "bob" / "clear.png")
    round = planned(tmp_path / "work", *from_folder(gifts))
    assert [c.samples for c in round.manifest.contributors] == [5, 5, 3, 3]


def test_an_image_given_twice_is_warned_of_with_both_names(gifts, tmp_path, caplog):
    shutil.copy(gifts / "ada" / "0.png", gifts / "dee" / "copied.png")
    plan.run(told(tmp_path / "work", *from_folder(gifts)))
    assert "the same image was given by 'ada' (ada/0.png) and 'dee' (dee/copied.png): they share the credit for it" in caplog.text


def test_dates_that_change_later_are_warned_of(gifts, tmp_path, caplog):
    rows = [f"{name}/{i}.png,{name}" for name in ("ada", "bob", "cy", "dee") for i in (0, 1, 2)]
    for joined in ("2024-01-01", "2025-01-01"):
        assert "dates of joining" not in caplog.text
        (gifts / "manifest.csv").write_text("\n".join(["path,contributor,joined", *(f"{row},{joined}" for row in rows)]) + "\n")
        round = planned(tmp_path / "work", *from_folder(gifts / "manifest.csv"))
    assert "labels or dates of joining of ada, bob, cy, dee are not those that the stored manifest has" in caplog.text
    assert {c.joined for c in round.manifest.contributors} == {"2024-01-01"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("ada/0.png,../x", ["'../x'", "contributor names that cannot be used"]),
        ("../secret.png,ada", ["'../secret.png'", "contain '..'"]),
        ("/etc/passwd,ada", ["'/etc/passwd'", "absolute"]),
        ("ada/none.png,ada", ["ada/none.png", "without a file"]),
        (",ada", ["no path"]),
        ("ada/0.png,", ["no contributor"]),
    ],
)
def test_names_and_paths_in_a_manifest(gifts, tmp_path, row, says):
    rows = [f"{name}/{i}.png,{name}" for name in ("ada", "bob", "cy", "dee") for i in (1, 2)]
    (gifts / "manifest.csv").write_text("\n".join(["path,contributor", *rows, row]) + "\n")
    refused(tmp_path / "work", DataError, *from_folder(gifts / "manifest.csv"), says=says)
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "work"}


def test_designers_that_are_none(tmp_path):
    refused(
        tmp_path, ConfigError, "data.contributors=[Emily Jaeger, Lisa Thiel]", says=["'Emily Jaeger'", "did you mean", "data.contributors"]
    )


def test_images_that_are_not_there(tmp_path):
    refused(tmp_path, DataError, *from_folder(tmp_path / "none"), says=["none", "data.path"])


def test_bad_images_end_the_pipeline_with_one_message(gifts, tmp_path):
    """Through KFP, whose component fails: the message of the stage, which stage it was, and no traceback."""
    (gifts / "dee" / "2.png").write_text("not an image")
    overrides = [part for override in from_folder(gifts, "tracking.uri=null", ALONE) for part in ("--set", override)]
    code, out, err = ran("-m", "pipelines", "run", CONFIG, "--workdir", tmp_path / "work", *overrides)
    assert code == 1
    assert out.splitlines()[0] == "plan"
    assert (out + err).count("dee/2.png: ") == 1
    assert "the pipeline stopped in plan, see above" in err
    for word in ("Traceback", "KFP", "FAILURE", "train"):
        assert word not in out + err
    assert nothing_made(tmp_path / "work")


# What is measured, and with how much


def test_a_property_that_is_not_there(tmp_path):
    refused(tmp_path, PropertyError, "properties=[fdi]", says=["found property 'fdi'", "did you mean fid?", "option properties"])
    refused(tmp_path, PropertyError, "properties=[fid, fid]", says=["2 times"])


def test_a_property_that_is_not_measured(tmp_path):
    says = ["'inception_score'", "expected one of properties: fid"]
    asked = "evaluation.counterfactual.property=inception_score"
    refused(tmp_path, ConfigError, "properties=[fid]", asked, says=[*says, "evaluation.counterfactual.property"])
    asked = stop(12, 14).replace('"width"', '"width", "properties": ["inception_score"]')
    refused(tmp_path, ConfigError, "properties=[fid]", asked, says=[*says, "valuation.stop.properties"])
    asked = "valuation.stated_v0.inception_score=1"
    refused(tmp_path, ConfigError, "properties=[fid]", asked, says=[*says, "valuation.stated_v0"])


def test_a_feature_network_that_is_not_there(tmp_path):
    refused(tmp_path, PropertyError, "network=/nowhere/net.safetensors", says=["/nowhere/net.safetensors", "option network"])
    (tmp_path / "net.safetensors").write_bytes(b"not a network")
    says = ["found no feature network", "net.safetensors", "option network"]
    refused(tmp_path, PropertyError, f"network={tmp_path}/net.safetensors", says=says)


def test_no_network_is_asked_for_where_none_is_needed(tmp_path):
    nothing = ("network=/nowhere", "properties=[colourfulness_p90]", "evaluation.counterfactual=null")
    assert plan.run(told(tmp_path, *nothing)).work


FIVE, SIX = ["data.contributors=5"], ["data.contributors=6"]


def stop(*looks, rule="width", target=1, **more):
    """The option `valuation` with a rule to stop."""
    asked = {"coalitions": looks[-1], "stop": {"looks": looks, "rule": rule, "target": target}, **more}
    return f"valuation={json.dumps(asked)}"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["valuation.coalitions=2"], ["found m = 2 coalitions", "expected", "valuation.coalitions"]),
        (["valuation.coalitions=6"], ["4 contributors", "valuation.coalitions"]),
        (["valuation.coalitions=13"], ["found m = 13", "even number", "valuation.coalitions"]),
        (["data.contributors=12"], ["12 contributors", "valuation.coalitions"]),
        ([KERNEL, "valuation.coalitions=2"], ["found 2 coalitions of rank 2, expected rank 4", "valuation.coalitions"]),
        ([KERNEL, "valuation.coalitions=11", "data.contributors=12"], ["found 11 coalitions", "expected rank 12", "12 contributors"]),
        ([stop(6, 14)], ["found m = 6 coalitions", "4 contributors", "valuation.stop.looks"]),
        ([*SIX, stop(16, 40)], ["contributors told apart by a single pair", "6 contributors", "valuation.stop.looks"]),
        ([stop(12, 48)], ["found 48 coalitions at the last look, expected at most the 14 there are", "valuation.stop.looks"]),
        ([stop(12, 14, rule="top_set", target=4)], ["found target = 4", "from 1 to 3", "4 contributors", "valuation.stop.target"]),
        ([stop(12, 14, rule="top_order", target=1.5)], ["found target = 1.5, expected a whole number", "valuation.stop.target"]),
        (["valuation={coalitions: 48, exact: {coalitions: 16}}"], ["found 16 coalitions in valuation.exact", "the 14 there are"]),
        ([*FIVE, "valuation={coalitions: 48, exact: {coalitions: 32}}"], ["found 32 coalitions in valuation.exact", "the 30 there are"]),
        (["valuation.datamodel={coalitions: 7}"], ["found m = 7, expected at most 6", "4 contributors", "valuation.datamodel"]),
        (["valuation.datamodel={coalitions: 3, alpha: 0.1}"], ["found alpha = 0.1", "4 contributors", "valuation.datamodel"]),
        (
            ["valuation={coalitions: 14, interactions: true}"],
            ["found 7 pairs", "expected at least 20", "valuation.interactions"],
        ),
        ([*SIX, stop(20, 40, interactions=True)], ["found 10 pairs of coalitions", "valuation.interactions"]),
        (["evaluation.held_out=7"], ["4 contributors", "evaluation.held_out"]),
        (["evaluation.alphas=[0.5, 0.3, 0.6]"], ["found shares 0.5, 0.6", "4 contributors", "evaluation.alphas"]),
        (["evaluation.alphas=[0.01]"], ["4 contributors", "evaluation.alphas"]),
        (["evaluation.counterfactual.random=4"], ["4 contributors", "evaluation.counterfactual.random"]),
    ],
)
def test_a_budget_that_carries_no_estimate(tmp_path, overrides, says):
    refused(tmp_path, ConfigError, *overrides, says=says)


# Records and models that are damaged


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def unseal(path):
    path.with_name(f".{path.name}.sha256").unlink()


def recorded(tmp_path):
    """A round whose every evaluation is in the ledger, one of them, and its file."""
    round = planned(tmp_path)
    fill(round, lambda mask, *_: float(mask.sum()))
    item = round.plan.wanted[7]
    return round, item, root(round.uri) / record_key(item.game, item.key)


@pytest.mark.parametrize("damage", [truncate, alter, unseal])
def test_a_damaged_evaluation_stops_at_plan(tmp_path, damage):
    round, item, path = recorded(tmp_path)
    damage(path)
    with kept(path), pytest.raises(Damaged, match=rf"{item.key}\.json: sha256 .* not overwritten"):
        plan.run(round.config)


@pytest.mark.parametrize("name", ["{}.bad", "old-{}"])
def test_a_damaged_evaluation_that_was_moved_away_is_planned_again(tmp_path, name):
    """Whatever name it was given, in the same folder: it is no record, and the forecast does not read it."""
    round, _, path = recorded(tmp_path)
    truncate(path)
    path.rename(path.with_name(name.format(path.name)))
    assert plan.run(round.config).pending == 1


def test_a_damaged_evaluation_ends_the_command(tmp_path):
    _, item, path = recorded(tmp_path)
    alter(path)
    options = ("--workdir", tmp_path, "--set", ALONE, "--set", "tracking.uri=null")
    with kept(path):
        err = process_refused("-m", "apportion", "plan", CONFIG, *options, says=[f"{item.key}.json", "sha256", "not overwritten"])
    assert len(err.splitlines()) == 1


def test_a_truncated_checkpoint_ends_the_command(ready):
    path = root(ready.uri) / weights_key(ready.plan.pruned)
    truncate(path)
    with kept(path):
        err = process_refused("-m", "apportion", "finetune", ready.uri, says=[f"{path.name}: sha256", "not overwritten"])
    assert "apportion: " in err


def test_damaged_models_stop_at_plan(ready):
    """What every coalition would start from, or be measured by, is read before any of them is made."""
    config = told(root(ready.uri).parent)
    assert plan.run(config).work
    before = snapshot(root(ready.uri))
    for key in (weights_key(ready.plan.base), weights_key(ready.plan.pruned), reference_key(ready.plan.reference)):
        reported(root(ready.uri) / key, truncate, lambda: plan.run(config))
    assert {name: data for name, (_, _, data) in snapshot(root(ready.uri)).items()} == {name: data for name, (_, _, data) in before.items()}


def test_what_a_task_refuses_is_said_once(tmp_path):
    """On a cluster a task that fails is tried again, as its node may be lost; here the same message would come three times."""
    told = ("--set", "tracking.uri=null", "--set", ALONE, "--set", "train.lr=1.0e+30", "--set", "train.steps=2")
    code, out, err = ran("-m", "pipelines", "run", CONFIG, "--workdir", tmp_path / "work", *told)
    assert code == 1
    assert [line for line in out.splitlines() if line in ("plan", "train", "prune", "close")] == ["plan", "train", "close"]
    assert (out + err).count("training diverged at train.lr") == 1
    assert "the pipeline stopped in train, see above" in err


def test_what_a_killed_round_left_damaged_stops_at_plan(ready):
    """Training images, the models of pending coalitions, and the images of those that were sampled."""
    config, item = told(root(ready.uri).parent), ready.pending(0)[0]
    for images in (root(ready.uri) / "images").glob("*.safetensors"):
        reported(images, alter, lambda: plan.run(config))
    for key in (ready.weights_key(item), ready.samples_key(item)):
        ready.store.put_if_absent(key, b"whatever a stage had made")
        reported(root(ready.uri) / key, truncate, lambda: plan.run(config))
    truncate(root(ready.uri) / ready.weights_key(item))
    assert plan.run(config).work  # nothing reads the model once there are its images


def test_damage_is_reported_by_whoever_reads_it(ready):
    """The checkpoint of a coalition by `sample`, its images and the reference by `score`, the training images by `finetune`."""
    item = ready.pending(0)[0]
    images = next((root(ready.uri) / "images").glob("*.safetensors"))
    reported(images, alter, lambda: finetune.run(ready.uri, 0))
    evaluated(ready.uri, SHARDED[:1])
    reported(root(ready.uri) / ready.weights_key(item), alter, lambda: sample.run(ready.uri, 0))
    evaluated(ready.uri, SHARDED[1:2])
    for key in (ready.samples_key(item), reference_key(ready.plan.reference)):
        reported(root(ready.uri) / key, alter, lambda: score.run(ready.uri, 0))
    assert sum(evaluated(ready.uri, SHARDED[2:]).values()) == 24  # once put right, it goes on


def reported(path, damage, run):
    """Asserts that a stage reports a damaged object and leaves it as it is; puts the object right again."""
    seal = path.with_name(f".{path.name}.sha256")
    whole, checksum = path.read_bytes(), seal.read_bytes()
    damage(path)
    with kept(path), pytest.raises(Damaged, match=rf"{path.name}: sha256 .* not overwritten"):
        run()
    path.write_bytes(whole)
    seal.write_bytes(checksum)


# Models that diverge


@pytest.mark.parametrize(("option", "stages"), [("train.lr", []), ("removal.pruning.retune.lr", [train])])
def test_a_model_that_diverges_stops_the_round_and_is_not_kept(tmp_path, option, stages):
    round = planned(tmp_path, f"{option}=1.0e+38")
    for stage in stages:
        stage.run(round.uri)
    before = set(tmp_path.rglob("checkpoints/*"))
    with pytest.raises(DiffusionError, match=rf"weight tensors not finite.* lower {option}"):
        (prune if stages else train).run(round.uri)
    assert set(tmp_path.rglob("checkpoints/*")) == before
