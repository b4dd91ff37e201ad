"""finetune, sample and score take everything that determines a value from the games of the round."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load as arrays
from tiny import ROOT, SMALLER, planned, prepared

from apportion import stages
from apportion.rounds.round import Round
from apportion.rounds.samples import load_samples

STAGES = ("finetune", "sample", "score")


class ComputeOnly:
    """A configuration that has the section `compute` and nothing else."""

    def __init__(self, compute):
        self.compute = compute

    def __getattr__(self, name):
        raise AssertionError(f"config.{name} was read")


def with_few_coalitions(this_round):
    """The same round with one coalition of each game, the empty coalition and the grand one."""
    wanted = this_round.plan.wanted
    purposes = ("design", "held_out", "v0", "v1")
    few = [next(item for item in wanted if item.purpose == purpose) for purpose in purposes]
    return replace(this_round, plan=this_round.plan.model_copy(update={"wanted": tuple(few)}))


def run_stages(this_round):
    """Runs the stages on all shards of an opened round; returns how many objects each made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Round, "open", lambda uri: this_round)
        shards = range(this_round.config.compute.shards)
        return {
            stage: sum(int(stages.run(stage, this_round.uri, shard)) for shard in shards) for stage in STAGES
        }


OVERRIDES = (*SMALLER, "evaluation.counterfactual=null")
ALONE = """
import sys
sys.path.insert(0, "tests")
sys.path.insert(0, "tests/stages")
from dataclasses import replace
from test_coalition_stages import ComputeOnly, run_stages, with_few_coalitions
from apportion.rounds.round import Round

this_round = with_few_coalitions(Round.open(sys.argv[1]))
assert not {"torch_pruning", "kfp", "mlflow"} & sys.modules.keys()
assert run_stages(replace(this_round, config=ComputeOnly(this_round.config.compute))) == dict(
    finetune=4, sample=4, score=4
)
assert not {"torch_pruning", "kfp", "mlflow"} & sys.modules.keys()
"""


def test_the_stages_read_the_games_alone_and_import_only_what_they_need(tmp_path):
    """In a process of their own, with a configuration that has only `compute`, they make the same objects as
    with the whole one. They import neither the library for pruning nor those of other stages."""
    this_round = planned(tmp_path / "whole", *OVERRIDES)
    prepared(this_round.uri)
    shutil.copytree(tmp_path / "whole", tmp_path / "alone")  # a store may be moved: only addresses name it
    rounds = (this_round, Round.open(this_round.uri.replace("/whole/", "/alone/")))
    whole, alone = map(with_few_coalitions, rounds)
    assert run_stages(whole) == dict.fromkeys(STAGES, 4)
    command = [sys.executable, "-c", ALONE, alone.uri]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for item in whole.plan.wanted:
        (key,) = whole.weights_keys(item)
        assert [key] == alone.weights_keys(item)
        weights = [arrays(this_round.store.get(key)) for this_round in (whole, alone)]
        assert weights[0].keys() == weights[1].keys()
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
        key = whole.samples_key(item)
        images = [load_samples(this_round.store, key)[0] for this_round in (whole, alone)]
        assert np.array_equal(*images)
        records = [this_round.ledger.read(item) for this_round in (whole, alone)]
        assert records[0].values == records[1].values


def test_a_configuration_with_compute_alone_refuses_every_other_section():
    config = ComputeOnly("options")
    assert config.compute == "options"
    with pytest.raises(AssertionError, match=r"config\.sampling was read"):
        _ = config.sampling
