"""A new property is a row of PROPERTIES, and a function on generated images."""

import numpy as np
from overlay import SMALLEST
from tiny import concluded, evaluated, planned, prepared

from apportion.properties import PROPERTIES, Property
from apportion.rounds.round import Round
from apportion.rounds.samples import load_samples

BRIGHTNESS = Property(
    "brightness",
    lambda images: float(images.pixels.mean()),
    higher_is_better=True,
    needs_network=False,
    needs_reference=False,
    meaning="how bright images are; 0 is black, 255 is white",
)


def test_a_property_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setitem(PROPERTIES, "brightness", BRIGHTNESS)
    uri = planned(
        tmp_path,
        *SMALLEST,
        "properties=[brightness]",
        "removal={method: finetune, fitting: {steps: 2, lr: 0.001}}",
    ).uri
    prepared(uri)
    evaluated(uri)
    concluded(uri)
    this_round = Round.open(uri)
    for wanted, evaluation in this_round.evaluations("design"):
        images, _ = load_samples(this_round.store, this_round.samples_key(wanted))
        assert evaluation.values == {"brightness": float(np.mean(images))}
    assert len(this_round.credits.of("brightness")) == 3
    assert "ow bright images are" in this_round.read("report.html").decode()
