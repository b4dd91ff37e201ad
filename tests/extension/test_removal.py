"""A new removal method is options in config/removal.py and a row of REMOVALS in diffusion/removal.py. What it
gives may be a mixture: here the weights of one fine-tuned model for each member are averaged."""

from overlay import ROUND, SMALLEST, Overlay

OPTIONS = '''
class Averaged(RemovalOptions):
    """One fine-tuned model for each contributor; a coalition's model is their average."""

    method: Literal["averaged"]
    fitting: Fitting

    def steps(self, train: Fitting | None) -> int:
        return self.fitting.steps

    def mixture(self, seed: int, members: Sequence[Member]) -> Mixture:
        if not members:
            return super().mixture(seed, members)
        whole = sum(member.samples for member in members)
        parts = [Part(TrainingRun(0, (member.data,)), member.samples / whole) for member in members]
        return Mixture(tuple(parts))


'''

CHECK = """
from apportion.rounds.weights import all_weights, shared_costs
from tiny import commit

weights = list((Path(sys.argv[1]) / "store" / "checkpoints").glob("*.safetensors"))
images = list((Path(sys.argv[1]) / "store" / "samples").glob("*.safetensors"))
needed = all_weights(this_round)
shards = [set(this_round.part(list(needed), shard)) for shard in range(2)]
assert shards[0] and shards[1] and not shards[0] & shards[1]
assert sum(row.shared for row in needed.values()) == 3
(shared,) = shared_costs(this_round).values()
assert commit(this_round).seconds["finetune"] >= sum(cost.finetune for cost in shared) > 0
assert "weights that coalitions share (averaged)" in this_round.read("report.html").decode()
print(made["finetune"], len(weights), len(images), len(this_round.credits.of("colourfulness_p90")))
"""


def test_a_removal_method_is_two_files(tmp_path):
    overlay = Overlay(tmp_path / "overlay", "configs")
    overlay.edit(
        "src/apportion/config/removal.py",
        ("Removal = Annotated[", OPTIONS + "Removal = Annotated["),
        ("    Retrain | Finetune |", "    Retrain | Averaged | Finetune |"),
    )
    overlay.edit(
        "src/apportion/diffusion/removal.py",
        (
            "isinstance(options, Finetune | SparsifiedFinetune | Experts)",
            "isinstance(options, Finetune | SparsifiedFinetune | Experts | Averaged)",
        ),
        ("import Experts,", "import Averaged, Experts,"),
        ('    "finetune": finetune,\n', '    "finetune": finetune,\n    "averaged": finetune,\n'),
    )
    assert len(overlay.changed) == 2
    removal = "removal={method: averaged, fitting: {steps: 2, lr: 0.001}}"
    said = overlay.run("-c", ROUND + CHECK, str(tmp_path / "work"), *SMALLEST, removal)
    # Shards make one model for each of three contributors, and an untrained one for each of two seeds of the
    # empty coalition; with the base model these are six. Images are of six coalitions, and of both endpoints
    # twice.
    assert said.split()[-4:] == ["5", "6", "10", "3"]
