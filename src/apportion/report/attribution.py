"""Whose data a round used, under which licence, and what its credits do not say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribution:
    """`disclaimer` is said to every reader; `credit` and `licence` (a name, with the address of its text or none) end the page."""

    disclaimer: str
    credit: str
    licence: str
    url: str | None = None


ATTRIBUTIONS: dict[str, Attribution] = {
    "openmoji": Attribution(
        disclaimer=(
            "These are scores of a toy model trained on tiny renderings of OpenMoji drawings. They illustrate a method and say nothing "
            "about the worth of any designer or drawing: another model, another seed or another property would order them otherwise."
        ),
        credit=(
            "The drawings are by the designers named on this page, for OpenMoji, the open-source emoji and icon project. "
            "Changes: rendered on white, averaged down to small squares. "
            "Shown here, and in the likeness of generated images, under the same licence."
        ),
        licence="CC BY-SA 4.0",
        url="https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "folder": Attribution(
        disclaimer=(
            "Credits describe one model, one way of removing data and the properties named here. They are a measurement with an error, "
            "not a judgement of the people who gave the images."
        ),
        credit="The images shown belong to those who contributed them.",
        licence="as agreed with the contributors",
    ),
}
"""By the source of the data, `data.source` in the configuration."""
