"""Which configurations are valid, and what is said of those that are not."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.config.cluster import Cluster, quantity
from apportion.config.credentials import AWS_CREDENTIALS, MLFLOW_CREDENTIALS, masked, unsendable
from apportion.config.data import Folder, OpenMoji
from apportion.config.family import DdpmOptions
from apportion.config.fitting import Fitting
from apportion.config.hashing import digest
from apportion.config.loading import load, parse
from apportion.config.round import Config
from apportion.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
LEAST = """
project: mine
data: {source: folder, path: /images, resolution: 16}
train: {steps: 10, lr: 0.001}
removal: {method: retrain}
properties: [fid]
"""
TUNED = "{method: finetune, fitting: {steps: 5, lr: 0.1}}"
EXPERTS = "{{method: experts, fitting: {{steps: 5, lr: 0.1}}, {}}}"


@pytest.fixture
def loaded(tmp_path):
    """Loads a text, with overrides."""

    def of(text: str = LEAST, *overrides: str, workdir: Path | None = None) -> Config:
        path = tmp_path / "round.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, overrides, workdir)

    return of


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path, tmp_path):
    config = load(path, workdir=tmp_path)
    assert "{workdir}" not in config.model_dump_json()
    assert parse(config.model_dump(mode="json"), "its own dump") == config
    assert parse(json.loads(config.model_dump_json()), "its own text") == config


def test_defaults(loaded):
    config = loaded()
    assert config.data == Folder(source="folder", path="/images", resolution=16)
    assert config.train == Fitting(steps=10, lr=0.001, batch=64, schedule="constant", ema=0.999)
    assert config.model == DdpmOptions()
    assert config.tracking.experiment == "apportion"
    assert config.store == "file://{workdir}/store"


def test_defaults_of_experts_and_of_a_game_without_models(loaded):
    experts = loaded(LEAST, "removal=" + TUNED.replace("finetune", "experts")).removal
    assert (experts.sets, experts.weights, experts.scale, experts.pruning) == (3, "images", 1.0, None)
    retune = "pruning: {ratio: 0.5, retune: {steps: 1, lr: 0.1}}"
    assert loaded(LEAST, "removal=" + EXPERTS.format(retune)).removal.prune.ratio == 0.5
    own = loaded(LEAST, "removal={method: own_images}").removal
    assert (own.generates, own.starts, own.shared_sets, own.steps(None)) == (False, False, 0, 0)


def test_the_source_decides_which_options_data_has(loaded):
    assert isinstance(loaded(LEAST, "data={source: openmoji, contributors: 3}").data, OpenMoji)
    with pytest.raises(ConfigError, match=r"data\.contributors: Extra inputs are not permitted \(found 3\)"):
        loaded(LEAST, "data.contributors=3")


# Overrides that make LEAST wrong, with the option that the message must name and what it must say of it.
WRONG = [
    ("colour=red", "colour", "not permitted (found 'red')"),
    ("train.stepz=3", "train.stepz", "not permitted (found 3)"),
    ("removal=" + TUNED.replace("lr", "rate"), "removal.fitting.rate", "not permitted"),
    ("removal=" + TUNED.replace("lr", "rate"), "removal.fitting.lr", "Field required"),
    ("train.steps='10'", "train.steps", "valid integer (found '10')"),
    ("train.steps=10.0", "train.steps", "valid integer (found 10.0)"),
    ("train.steps=1e1", "train.steps", "valid integer (found 10.0)"),
    ("train.steps=true", "train.steps", "valid integer (found True)"),
    ("train.steps=0", "train.steps", "greater than or equal to 1 (found 0)"),
    ("train.steps=", "train.steps", "valid integer (found None)"),
    ("train.lr='0.1'", "train.lr", "valid number (found '0.1')"),
    ("seed=4294967296", "seed", "less than 4294967296"),
    ("evaluation.seed=-1", "evaluation.seed", "greater than or equal to 0"),
    ("tracking.experiment=' '", "tracking.experiment", "at least 1 character"),
    ("train.lr=true", "train.lr", "valid number (found True)"),
    ("train.lr=0", "train.lr", "greater than 0 (found 0)"),
    ("train.lr=.inf", "train.lr", "finite number (found inf)"),
    ("train.lr=.nan", "train.lr", "finite number (found nan)"),
    ("train.weight_decay=.inf", "train.weight_decay", "finite number (found inf)"),
    ("valuation.stated_v0={fid: .nan}", "valuation.stated_v0.fid", "finite number (found nan)"),
    ("train.ema=1", "train.ema", "less than 1 (found 1)"),
    ("train.schedule=linear", "train.schedule", "'constant', 'cosine' or 'one_cycle' (found 'linear')"),
    ("train=3", "train", "valid dictionary"),
    ("project=../x", "project", "found '../x'"),
    ("project=a/b", "project", "found 'a/b'"),
    ("project=a b", "project", "found 'a b'"),
    ("project=.hidden", "project", "found '.hidden'"),
    ("project=''", "project", "found ''"),
    ('project="a\\n"', "project", "found 'a\\n'"),
    (f"project={'a' * 65}", "project", "found 'aaa"),
    ("project=7", "project", "valid string (found 7)"),
    ("project=2024-01-01", "project", "valid string (found datetime.date(2024, 1, 1))"),
    ("properties=[]", "properties", "at least 1 item"),
    ("properties=fid", "properties", "valid list (found 'fid')"),
    ("properties=[1]", "properties.0", "valid string (found 1)"),
    ("seed=-1", "seed", "greater than or equal to 0 (found -1)"),
    ("data.source=web", "data.source", "'openmoji', 'folder' (found 'web')"),
    ("data.source=null", "data.source", "(found None)"),
    ("data.resolution=7", "data.resolution", "greater than or equal to 8 (found 7)"),
    ("data={source: openmoji, contributors: 1}", "data.contributors", "greater than or equal to 2 (found 1)"),
    ("data={source: openmoji, contributors: [1, 2]}", "data.contributors.0", "valid string (found 1)"),
    ("data={source: openmoji, resolution: 64}", "data.resolution", "16 or 32 (found 64)"),
    ("model.channels=[]", "model", "one per level of channels (0)"),
    ("model={channels: [], attention: []}", "model", "found channels [] with attention"),
    (
        "model.attention=[true]",
        "model",
        "found 1 entries in attention, expected one per level of channels (3)",
    ),
    ("model.channels=[32, 64, 65]", "model", "found channels [65], expected multiples of norm_groups (16)"),
    (
        "model.attention_head_dim=65",
        "model",
        "found channels [64] with attention, expected at least attention_head_dim (65)",
    ),
    (
        "model={attention: [true, false, false], attention_head_dim: 64}",
        "model",
        "found channels [32, 64] with attention",
    ),
    (
        "data.resolution=18",
        "",
        "found data.resolution 18, expected a multiple of 4: each of the 3 levels of model.channels but",
    ),
    (
        "removal.method=forget",
        "removal.method",
        "Input should be one of 'retrain', 'finetune', 'sparsified_finetune', 'experts', 'own_images' (found "
        "'forget')",
    ),
    ("removal={method: null}", "removal.method", "(found None)"),
    (
        "valuation.exact={coalitions: 16}",
        "valuation.exact",
        "not permitted; this option is now valuation.retrained",
    ),
    ("removal.method=finetune", "removal.fitting", "Field required"),
    ("removal=" + TUNED.replace("finetune", "retrain"), "removal.fitting", "no such section, expected none"),
    ("removal=" + TUNED.replace("finetune", "sparsified_finetune"), "removal.pruning", "Field required"),
    ("removal={fitting: {steps: 5, lr: 0.1}}", "removal.method", "Field required (found None)"),
    ("removal={method: experts}", "removal.fitting", "Field required"),
    ("removal=" + EXPERTS.format("sets: 0"), "removal.sets", "greater than or equal to 1 (found 0)"),
    ("removal=" + EXPERTS.format("sets: 65"), "removal.sets", "less than or equal to 64 (found 65)"),
    ("removal=" + EXPERTS.format("weights: size"), "removal.weights", "'images', 'sqrt' or 'equal'"),
    ("removal=" + EXPERTS.format("scale: 0"), "removal.scale", "greater than 0 (found 0)"),
    ("removal=" + EXPERTS.format("scale: .inf"), "removal.scale", "finite number (found inf)"),
    ("removal=" + EXPERTS.format("pruning: 0.5"), "removal.pruning", "valid dictionary"),
    (
        "removal=" + TUNED.replace("finetune", "own_images"),
        "removal.fitting",
        "no such section, expected none",
    ),
    ("removal={method: own_images, sets: 3}", "removal.sets", "not permitted (found 3)"),
    ("evaluation.by_size=-1", "evaluation.by_size", "greater than or equal to 0 (found -1)"),
    ("model.family=gan", "model.family", "Input should be one of 'ddpm' (found 'gan')"),
    ("sampling.images=31", "sampling.images", "greater than or equal to 32 (found 31)"),
    (
        "sampling.steps=1001",
        "",
        "found sampling.steps 1001, expected at most the 1000 timesteps of the family",
    ),
    (
        "sampling.steps=12",
        "",
        "found sampling.steps 12, expected a divisor of the 1000 timesteps, such as 10 or 8",
    ),
    (
        "evaluation.alphas=[0.5, 0.25, 0.5]",
        "evaluation",
        "found 0.5 more than once in alphas, expected each share once",
    ),
    ("evaluation.alphas=[0.5, 1.0]", "evaluation.alphas.1", "less than 1 (found 1.0)"),
    ("compute.device=tpu", "compute.device", "'auto', 'cpu' or 'cuda' (found 'tpu')"),
    ("store=null", "store", "valid string (found None)"),
    ("valuation.methods=[]", "valuation.methods", "at least 1 item"),
    (
        "valuation={design: shapley_kernel, interactions: true}",
        "valuation",
        "found valuation.interactions beside design 'shapley_kernel'",
    ),
    (
        "valuation={design: shapley_kernel, retrained: {coalitions: 16}}",
        "valuation",
        "found valuation.retrained beside design 'shapley_kernel'",
    ),
    (
        "valuation={design: shapley_kernel, stop: {looks: [2, 48], rule: width, target: 1}}",
        "valuation",
        "found valuation.stop beside",
    ),
    (
        "valuation.stop={looks: [24, 40], rule: width, target: 1}",
        "valuation",
        "found valuation.stop.looks up to 40, expected the last to",
    ),
    ("valuation.stop={looks: [48], rule: width, target: 1}", "valuation.stop.looks", "at least 2 items"),
    (
        "valuation.stop={looks: [24, 24, 48], rule: width, target: 1}",
        "valuation.stop.looks",
        "found [24, 24, 48], expected numbers of",
    ),
    (
        "valuation.stop={looks: [25, 48], rule: width, target: 1}",
        "valuation.stop.looks.0",
        "multiple of 2 (found 25)",
    ),
    (
        "valuation.stop={looks: [24, 48], rule: width, target: 0}",
        "valuation.stop.target",
        "greater than 0 (found 0)",
    ),
    (
        "valuation.stop={looks: [24, 48], rule: signs, target: 1}",
        "valuation.stop.rule",
        "'width', 'share', 'top_set' or 'top_order'",
    ),
    (
        "valuation.stop={looks: [24, 48], rule: width, target: 1, spending: all}",
        "valuation.stop.spending",
        "'obrien_fleming' or 'pocock'",
    ),
    ("valuation.retrained={coalitions: 17}", "valuation.retrained.coalitions", "multiple of 2 (found 17)"),
    (
        "valuation.retrained={coalitions: 14}",
        "valuation.retrained.coalitions",
        "greater than or equal to 16 (found 14)",
    ),
    (
        "valuation.retrained={coalitions: 16, endpoint_seeds: 1}",
        "valuation.retrained.endpoint_seeds",
        "greater than or equal to 2 (found 1)",
    ),
    (
        "valuation.retrained={coalitions: 50}",
        "valuation",
        "found 50 coalitions in valuation.retrained, expected at most the 48 of the design",
    ),
    (
        "valuation={retrained: {coalitions: 26}, stop: {looks: [24, 48], rule: width, target: 1}}",
        "valuation",
        "found 26 coalitions in",
    ),
    (
        "valuation.retrained={coalitions: 16}",
        "",
        "found valuation.retrained beside removal.method 'retrain', expected another removal method",
    ),
    ("valuation.beta=[4]", "valuation.beta", "at least 2 items"),
    ("valuation.beta=[4, 0]", "valuation.beta.1", "greater than 0 (found 0)"),
    (
        "valuation.datamodel={coalitions: 2}",
        "valuation.datamodel.coalitions",
        "greater than or equal to 3 (found 2)",
    ),
]


@pytest.mark.parametrize(("override", "option", "says"), WRONG)
def test_a_wrong_option_is_named_with_its_value(override, option, says, loaded):
    with pytest.raises(ConfigError) as refused:
        loaded(LEAST, override)
    first, *problems = str(refused.value).splitlines()
    assert re.fullmatch(r".*/round\.yaml is not a valid configuration:", first)
    start = f"  {option}: " if option else "  found "
    assert any(line.startswith(start) and says in line for line in problems), refused.value


@pytest.mark.parametrize("option", ["project", "data", "train", "removal", "properties"])
def test_required_options(option, loaded):
    kept = "\n".join(line for line in LEAST.splitlines() if not line.startswith(option))
    with pytest.raises(ConfigError, match=rf"\n  {option}: Field required"):
        loaded(kept)


def test_every_problem_is_reported_at_once(loaded):
    with pytest.raises(ConfigError) as refused:
        loaded(LEAST, "seed=-1", "train.lr=0", "colour=red")
    assert {line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]} == {
        "seed",
        "train.lr",
        "colour",
    }


def test_whole_numbers_are_numbers(loaded):
    """Strict is not pedantic: `lr: 1` is 1.0, and has its address."""
    whole, point = (
        loaded(LEAST, "train.lr=1", "train.weight_decay=0"),
        loaded(LEAST, "train.lr=1.0", "train.weight_decay=0.0"),
    )
    assert whole == point
    assert digest(whole.model_dump(mode="json")) == digest(point.model_dump(mode="json"))
    assert isinstance(whole.train.lr, float)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001", "10e-4", "1e-03"])
def test_a_rate_may_be_written_as_people_do(text, loaded):
    assert loaded(LEAST, f"train.lr={text}").train.lr == 0.001
    assert loaded(LEAST.replace("0.001", text)).train.lr == 0.001


# What is refused before validation: a text, or an override of LEAST.
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "found NoneType in"),
        ("- a\n- b\n", "found list in .*, expected a mapping of options"),
        ("just words", "found str in"),
        ("a: [", "cannot read the configuration"),
        ("a: b: c", "mapping values are not allowed"),
        ("\tproject: x", "cannot start any token"),
        (LEAST + "\nseed: 2024-13-45", "cannot read .*month must be in 1..12"),
        (LEAST + "\nseed: 1\nseed: 2", "found 'seed' more than once"),
        (LEAST.replace("steps: 10", "steps: 10, steps: 11"), "found 'steps' more than once"),
        (
            LEAST + "\nseed: !!python/object/apply:os.system ['touch HACKED']",
            "could not determine a constructor for the tag",
        ),
        (LEAST + "\nseed: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: " + "[" * 5000, "cannot read the configuration"),
        (LEAST + "\n5: 6", "5: Keys should be strings"),
    ],
)
def test_texts_that_are_not_a_configuration(text, says, loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        loaded(text)
    assert not (tmp_path / "HACKED").exists()


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("project: Jäger".encode("latin-1"))
    for name in ("none.yaml", "latin.yaml", "."):
        with pytest.raises(
            ConfigError, match=f"cannot read the configuration {re.escape(str(tmp_path / name))}"
        ):
            load(tmp_path / name)


def test_overrides_are_yaml_and_later_ones_win(loaded):
    config = loaded(
        LEAST,
        "seed=3",
        "train.lr=0.5",
        "tracking.uri=null",
        "compute.device=cpu",
        "properties=[fid, cluster_entropy]",
        "seed=4",
        "valuation.stated_v0.fid=55",
        "removal=" + TUNED,
        "removal.fitting.steps=9",
        "train.schedule='cosine'",
        "store=s3://bucket/a=b",
    )
    assert (config.seed, config.train.lr, config.tracking.uri, config.compute.device) == (4, 0.5, None, "cpu")
    assert config.properties == ["fid", "cluster_entropy"]
    assert config.valuation.stated_v0 == {"fid": 55.0}  # `valuation` was not in the text at all
    assert config.removal.fitting == Fitting(steps=9, lr=0.1)
    assert config.train.schedule == "cosine"
    assert config.store == "s3://bucket/a=b"
    assert config.train.steps == 10  # the rest of a section stays


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "found --set 'seed', expected key.sub=value"),
        ("", "found --set '', expected key.sub=value"),
        ("=3", "found --set '=3', expected key.sub=value"),
        ("a..b=3", "expected key.sub=value"),
        ("a.=3", "expected key.sub=value"),
        ("../x=3", "expected key.sub=value"),
        ("train. lr=3", "expected key.sub=value"),
        ("project.x=3", "found --set 'project.x=3', but 'project' is not a section"),
        ("train.lr.x=3", "but 'lr' is not a section"),
        ("seed=[", "found --set 'seed=\\[', expected a YAML value: while parsing"),
        ("seed=2024-13-45", "expected a YAML value: month must be in 1..12"),
        ("seed=!!python/name:os.system", "expected a YAML value: could not determine a constructor"),
        (
            "seed=!!python/object/apply:os.system [ls]",
            "expected a YAML value: could not determine a constructor",
        ),
        ("train={steps: 1, steps: 2, lr: 1}", "expected a YAML value: found 'steps' more than once"),
    ],
)
def test_overrides_that_are_refused(override, says, loaded):
    with pytest.raises(ConfigError, match=says):
        loaded(LEAST, override)


def test_an_override_changes_a_shared_section_in_one_place_only(loaded):
    text = LEAST.replace("train: {", "train: &fitting {").replace("retrain}", "finetune, fitting: *fitting}")
    config = loaded(text, "train.steps=77")
    assert (config.train.steps, config.removal.fitting.steps) == (77, 10)
    assert loaded(text).removal.fitting == loaded(text).train


def test_the_work_folder_is_filled_in_everywhere(loaded, tmp_path):
    text = LEAST.replace("/images", "'{workdir}/images'")
    config = loaded(text, workdir=tmp_path)
    assert config.store == f"file://{tmp_path}/store"  # a default
    assert config.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.tracking.artifacts == f"{tmp_path}/artifacts"
    assert config.data.path == f"{tmp_path}/images"
    assert loaded(text).data.path == "{workdir}/images"  # nobody said which


def test_a_work_folder_is_made_absolute_and_a_percent_in_it_is_no_escape(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = loaded(workdir=Path("100%25 mine"))
    assert config.store == f"file://{tmp_path}/100%2525 mine/store"
    assert config.tracking.uri == f"sqlite:///{tmp_path}/100%2525 mine/mlflow.db"
    assert config.tracking.artifacts == f"{tmp_path}/100%25 mine/artifacts"
    assert loaded(workdir=Path("what? #1")).store == f"file://{tmp_path}/what%3F %231/store"


@pytest.mark.parametrize(
    ("option", "address", "says"),
    [
        (
            "tracking.uri",
            "http://ada:s3cret@mlflow:5000",
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        ("tracking.uri", "https://s3cret@mlflow", "MLFLOW_TRACKING_TOKEN"),
        ("tracking.uri", "https://ada:s3c@ret@mlflow", "MLFLOW_TRACKING_PASSWORD"),
        ("tracking.uri", "postgresql://ada:s3cret@host/mlflow", "PGPASSWORD"),
        ("tracking.uri", "postgresql://host/mlflow?sslmode=require&password=s3cret", "PGPASSWORD"),
        ("tracking.uri", "https://mlflow/?ACCESS_TOKEN=s3cret&a=b", "MLFLOW_TRACKING_TOKEN"),
        ("tracking.artifacts", "https://bucket/runs?X-Amz-Signature=s3cret", "expected none"),
        ("tracking.artifacts", "s3://key:s3cret@bucket/runs", "AWS_SECRET_ACCESS_KEY"),
        ("store", "s3://key:s3cret@bucket/store", "AWS_SECRET_ACCESS_KEY"),
        ("network", "s3://key:s3cret@bucket/features.safetensors", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_shown(loaded, option, address, says):
    """A configuration is stored with its round, tracked, and a parameter of the pipeline."""
    for broken in ("seed=0", "properties=[]"):  # an error elsewhere shows no address either
        with pytest.raises(ConfigError) as caught:
            loaded(LEAST, f"{option}={address}", broken)
        assert option in str(caught.value)
        assert says in str(caught.value)
        assert not [word for word in ("s3c", "ret@", "ada:", "key:") if word in str(caught.value)], str(
            caught.value
        )


SIGNED = "https://bucket/k?X-Amz-Credential=hidden1&X-Amz-Date=today&X-Amz-Security-Token=hidden2%3D&X-Amz-Signature=hidden3"
OLDER = (
    "https://bucket/k?AWSAccessKeyId=hidden4&Signature=hidden5&Expires=9;client_secret=hidden6 and no more"
)


def test_signed_addresses_are_masked():
    said = masked(f"cannot read {SIGNED}, nor '{OLDER}'")
    assert "hidden" not in said
    assert not [
        word
        for word in ("X-Amz-Date=today", "X-Amz-Security-Token=***&", "Expires=9;", "and no more")
        if word not in said
    ], said
    assert (
        masked("https://mlflow/team@home?passing=1&design=2") == "https://mlflow/team@home?passing=1&design=2"
    )


@pytest.mark.parametrize("name", [*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS, "KFP_TOKEN"])
def test_credentials_of_the_environment_are_masked(monkeypatch, name):
    monkeypatch.setenv(name, "hid.den+in=every/text\n")  # as `echo` makes it
    assert (
        masked("b'Bearer hid.den+in=every/text\\n' and hid-den+in=every/text")
        == "b'Bearer ***\\n' and hid-den+in=every/text"
    )
    monkeypatch.setenv(name, "fl0w-er")
    of_who = name.endswith(("_ID", "_USERNAME"))  # a short one is no secret, and may be part of an address
    assert masked("http://fl0w-er:5000/fl0w-ers") == (
        "http://fl0w-er:5000/fl0w-ers" if of_who else "http://***:5000/fl0w-ers"
    )
    monkeypatch.setenv(name, "apportion")  # a word of what is said
    assert masked("apportion lifecycle") == "apportion lifecycle"


@pytest.mark.parametrize("name", [*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS])
@pytest.mark.parametrize(
    "value", ["hidden\n", "\r\nhidden", "hid\x01den", "hidden\x7f", " hidden", "hid den", "hidd\xe9n", "\t"]
)
def test_credentials_that_http_cannot_send(monkeypatch, name, value):
    """A user and a password are sent as base64, and a key that signs is not sent: only what nobody meant is
    refused there."""
    monkeypatch.setenv(name, value)
    found = unsendable([name])
    if value.isprintable() and name.endswith(
        ("USERNAME", "PASSWORD") if value == " hidden" else ("USERNAME", "PASSWORD", "SECRET_ACCESS_KEY")
    ):
        assert found is None
        return
    assert f"HTTP cannot send in {name}: a Secret made from `echo` ends in a line break" in found
    assert "hid" not in found.partition(name)[0] + found.partition(name)[2]


def test_credentials_that_http_can_send(monkeypatch):
    for name in (*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS):
        monkeypatch.setenv(name, "abc/+=~" if name != "AWS_SESSION_TOKEN" else "")
    assert unsendable([*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS, "NOT_SET"]) is None


def test_an_at_sign_elsewhere_is_not_a_user(loaded):
    overrides = [
        "network=/models/a@b.safetensors",
        "store=file:///data/a@b",
        "tracking.uri=https://mlflow/team@home?passing=1",
    ]
    config = loaded(LEAST, *overrides, workdir=Path("/tmp/x@y"))
    assert (config.store, config.network) == ("file:///data/a@b", "/models/a@b.safetensors")
    assert config.tracking.artifacts == "/tmp/x@y/artifacts"


def test_a_configuration_cannot_be_changed(loaded):
    with pytest.raises(ValueError, match="frozen"):
        loaded().seed = 3


# The cluster


def test_the_cluster_is_not_part_of_a_rounds_identity(loaded):
    config = loaded(LEAST, "cluster.images.cpu=registry/cpu:2", "cluster.retries=7", workdir=Path("work"))
    assert (config.cluster.images.cpu, config.cluster.retries) == (
        "registry/cpu:2",
        7,
    )  # filling the work folder in keeps them
    assert config.identity() == loaded(workdir=Path("work")).identity()
    assert "cluster" not in config.model_dump()
    assert (
        "registry/cpu:2" not in config.model_dump_json()
    )  # nor is it stored with the round, or shown in its report


def test_an_option_of_a_pool_changes_that_option_alone(loaded):
    gpu = loaded(
        LEAST, "cluster.pools.gpu.memory=64Gi", "cluster.pools.gpu.node_selector={pool: a100}"
    ).cluster.pools["gpu"]
    assert gpu.model_dump() == Cluster().pools["gpu"].model_dump() | {
        "memory": "64Gi",
        "node_selector": {"pool": "a100"},
    }
    assert loaded(LEAST, "cluster.pools.large={cpu: 8}").cluster.pools.keys() == {"cpu", "gpu", "large"}


def test_options_of_a_stage(loaded):
    stages = "cluster.stages={train: {pool: cpu, memory: 8Gi}, score: {cpu: 0.5}, plan: {retries: 1}}"
    cluster = loaded(LEAST, stages, "cluster.timeout=3", "cluster.stages.prune.timeout=0.5").cluster
    assert (cluster.pool("train").memory, cluster.pool("train").accelerators, cluster.image("train")) == (
        "8Gi",
        0,
        cluster.images.cpu,
    )
    assert (cluster.pool("score").cpu, cluster.pool("score").accelerators, cluster.image("score")) == (
        "0.5",
        1,
        cluster.images.gpu,
    )
    assert [cluster.retries_of(stage) for stage in ("plan", "close", "train", "publish")] == [1, 0, 2, 2]
    assert [cluster.hours(stage) for stage in ("prune", "train")] == [0.5, 3]


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("4", 4), ("0.25", 0.25), ("4Gi", 2**32), ("2M", 2e6), ("3T", 3e12), ("7Ki", 7168)],
)
def test_quantities_of_kubernetes(text, number):
    assert quantity(text) == number


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("retry=3", "cluster.retry: Extra inputs"),
        ("images.cpu=registry/cpu", "cluster.images.cpu: Value error, expected an image with its tag"),
        ("images.gpu='registry/gpu:1 2'", "cluster.images.gpu"),
        ("images.gpu=registry/gpu@sha256:12", "cluster.images.gpu"),
        ("pull_policy=Sometimes", "cluster.pull_policy: Input should be 'Always', 'IfNotPresent' or 'Never'"),
        ("pull_secrets=[Registry_1]", "cluster.pull_secrets.0: Value error, expected lower-case letters"),
        (
            "pools.gpu.cpu=0",
            "cluster.pools.gpu.cpu: Value error, expected a number of processors greater than 0, such as 4, "
            "0.5 or 500m (found 0)",
        ),
        ("pools.gpu.cpu=4 cores", "cluster.pools.gpu.cpu: Value error, expected a number of processors"),
        ("pools.gpu.cpu=0m", "cluster.pools.gpu.cpu"),
        ("pools.gpu.memory=4", "cluster.pools.gpu.memory: Input should be a valid string"),
        (
            "pools.gpu.memory='4096'",
            "cluster.pools.gpu.memory: Value error, expected a number of bytes with its unit, such as 512Mi "
            "or 4Gi",
        ),
        (
            "pools.gpu.memory=4GB",
            "cluster.pools.gpu.memory: Value error, expected a number of bytes with its unit",
        ),
        ("pools.gpu.shm=16Gi", "found shm 16Gi, expected less than memory (16Gi)"),
        ("pools.cpu.cpu_limit=500m", "found cpu_limit 500m, expected at least cpu (1)"),
        ("pools.cpu.accelerators=1", "found accelerator None and accelerators 1, expected both or neither"),
        (
            "pools.gpu.accelerators=0",
            "found accelerator nvidia.com/gpu and accelerators 0, expected both or neither",
        ),
        ("pools.gpu.accelerator=nvidia gpu", "cluster.pools.gpu.accelerator"),
        (
            "pools.gpu.node_selector={pool: a 100}",
            "cluster.pools.gpu.node_selector.pool: Value error, expected the value of a label",
        ),
        (
            "pools.gpu.node_selector={-pool: a100}",
            "expected the key of a label, such as pool or example.com/pool",
        ),
        (
            "pools.gpu.node_selector={pool: 100}",
            "cluster.pools.gpu.node_selector.pool: Input should be a valid string",
        ),
        (
            "pools.gpu.tolerations=[{operator: Exists, value: x}]",
            "expected operator Exists without a value, or Equal with a key and a value",
        ),
        ("pools.gpu.tolerations=[{key: spot}]", "expected operator Exists without a value"),
        ("pools.gpu.tolerations=[{key: spot, operator: Like}]", "cluster.pools.gpu.tolerations.0.operator"),
        ("pools.GPU={}", "cluster.pools.GPU.[key]: Value error, expected lower-case letters"),
        ("stages.training={retries: 1}", "found stage 'training', expected one of plan, train, prune"),
        ("stages.train.pool=tpu", "found pool 'tpu' in stages.train, expected one of pools: cpu, gpu"),
        (
            "stages.train.memory=1Gi",
            "found stages.train that does not fit its pool: Value error, found shm 2Gi, expected less than "
            "memory (1Gi)",
        ),
        ("stages.train.timeout=0", "cluster.stages.train.timeout: Input should be greater than 0"),
        ("timeout=-1", "cluster.timeout: Input should be greater than 0"),
        ("timeout=100000", "cluster.timeout"),
        ("retries=-1", "cluster.retries: Input should be greater than or equal to 0"),
        ("labels={'a b': c}", "expected the key of a label"),
        ("labels={queue: 'a/b'}", "cluster.labels.queue: Value error, expected the value of a label"),
        ("secrets=[{name: s3, env: {}}]", "cluster.secrets.0.env"),
        ("secrets=[{name: S3, env: {A: a}}]", "cluster.secrets.0.name"),
        ("secrets=[{name: s3, env: {'A-B': a}}]", "expected the name of an environment variable"),
        (
            "secrets=[{name: a, env: {A: k}}, {name: b, env: {A: k}}]",
            "found A more than once in secrets and env",
        ),
        ("volumes=[{claim: Drawings, path: /data}]", "cluster.volumes.0.claim"),
        (
            "volumes=[{claim: drawings, path: data}]",
            "cluster.volumes.0.path: Value error, expected an absolute path",
        ),
        (
            "volumes=[{claim: drawings, path: /data/../etc}]",
            "found /data/../etc, expected a separate folder",
        ),
        ("volumes=[{claim: drawings, path: /opt}]", "found /opt, expected a separate folder"),
        (
            "volumes=[{claim: drawings, path: /opt//apportion}]",
            "found /opt//apportion, expected a separate folder",
        ),
        (
            "volumes=[{claim: drawings, path: /usr/local/lib}]",
            "found /usr/local/lib, expected a separate folder",
        ),
        (
            "volumes=[{claim: drawings, path: /kfp-launcher}]",
            "found /kfp-launcher, expected a separate folder",
        ),
        ("volumes=[{claim: drawings, path: /work/data}]", "found /work/data, expected a separate folder"),
        ("volumes=[{claim: tmp, path: /data}]", "found tmp in volumes or ca, expected another name"),
        ("volumes=[{claim: a, path: /data}, {claim: a, path: /more}]", "found a in volumes or ca"),
        (
            "volumes=[{claim: a, path: /data}, {claim: b, path: /data}]",
            "found /data more than once in volumes",
        ),
        ("ca={config_map: shm}", "found shm in volumes or ca"),
        (
            "env={AWS_ACCESS_KEY_ID: x}",
            "cluster.env.AWS_ACCESS_KEY_ID.[key]: Value error, expected no credential",
        ),
        (
            "ca={config_map: apportion.ca}",
            "cluster.ca.config_map: Value error, expected lower-case letters, digits and '-'",
        ),
        ("kfp.host=kubeflow.example.com", "cluster.kfp.host: Value error, expected http://… or https://…"),
        ("kfp.host=https://kubeflow.example.com/?ns=x", "cluster.kfp.host"),
        ("kfp.namespace=team/a", "cluster.kfp.namespace"),
        ("kfp.experiment=' '", "cluster.kfp.experiment"),
        ("kfp.cron=0 3 * * *", "found 5 fields, expected 6: KFP's cron begins with seconds"),
        ("kfp.cron='@daily'", "found 1 fields, expected 6"),
        ("kfp.cron=0 0 24 * * *", "found '24' for the hour, expected *, or numbers from 0 to 23"),
        ("kfp.cron=0 60 3 * * *", "found '60' for the minute"),
        ("kfp.cron=0 0 3 0 * *", "found '0' for the day"),
        ("kfp.cron=0 0 3 * * 5-1", "found '5-1' for the day of the week"),
        ("kfp.cron=0 0 3 * * */0", "found '*/0' for the day of the week"),
        ("kfp.cron=0 0 3 * XXX *", "found 'XXX' for the month"),
    ],
)
def test_wrong_options_of_the_cluster_are_named(loaded, override, says):
    with pytest.raises(ConfigError) as caught:
        loaded(LEAST, f"cluster.{override}")
    assert says in str(caught.value)


@pytest.mark.parametrize("cron", ["0 0 3 * * *", "*/10 0,30 8-18/2 ? JAN-jun MON-FRI", "59 59 23 31 12 6"])
def test_times_of_a_schedule(loaded, cron):
    assert loaded(LEAST, f"cluster.kfp.cron='{cron}'").cluster.kfp.cron == cron


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "DB_PASSWD",
        "api_key",
        "MY_CREDENTIALS",
        "PRIVATE_KEY",
    ],
)
def test_a_credential_is_not_a_plain_variable(loaded, name):
    """It would be readable in the compiled pipeline; nor does the message show it."""
    with pytest.raises(ConfigError, match=r"use cluster\.secrets") as caught:
        loaded(LEAST, f"cluster.env={{{name}: hunter2}}")
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_credentials_in_the_addresses_of_the_cluster(loaded):
    for option in ("env={HTTPS_PROXY: 'http://ada:hunter2@proxy'}", "kfp.host=https://ada:hunter2@kfp"):
        with pytest.raises(
            ConfigError, match=r"found a user or a password|expected no user or password"
        ) as caught:
            loaded(LEAST, f"cluster.{option}")
        assert "hunter2" not in str(caught.value)


def test_variables_that_only_sound_like_credentials(loaded):
    env = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
        "APPORTION_S3_KMS_KEY": "alias/x",
        "APPORTION_S3_SSE": "aws:kms",
        "KFP_TOKEN_PATH": "/x",
    }
    assert loaded(LEAST, f"cluster.env={json.dumps(env)}").cluster.env == env


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_a_digest_depends_on_the_value_alone(value):
    found = digest(value)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert digest(reversed_keys(value)) == found
    assert digest(json.loads(json.dumps(value))) == found  # whatever passed through a file


@given(st.lists(JSON, min_size=2, max_size=6))
def test_different_values_have_different_digests(values):
    texts = {json.dumps(value, sort_keys=True) for value in values}
    assert len({digest(value) for value in values}) == len(texts)


def test_digests_that_stores_are_addressed_by():
    """Every address of every store hangs on these: a change here makes all of them unreachable."""
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e"
    assert digest({"b": [1, 2.5, None, True], "a": "Jäger 🙂"}) == digest(
        {"a": "Jäger 🙂", "b": [1, 2.5, None, True]}
    )
    assert (
        digest({"a": "Jäger 🙂", "b": [1, 2.5, None, True]}) == "b2cf9eb25bb785c5b6b8a7efebdcd827"
    )  # of the text {"a":"Jäger 🙂","b":[1,2.5,null,true]}
    assert digest("ä") != digest("a\u0308")  # names are normalised where they are read, not here


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_numbers_that_json_lacks_have_no_digest(value):
    with pytest.raises(ValueError, match="Out of range float values"):
        digest(value)
