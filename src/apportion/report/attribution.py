"""Who made the data of a round, under which licence, and what its credits do not mean."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribution:
    """What a page says at its end. disclaimer: what credits do not mean. credit: who made the data. licence:
    its name. url: the address of its text, or None."""

    disclaimer: str
    credit: str
    licence: str
    url: str | None = None


ATTRIBUTIONS: dict[str, Attribution] = {
    "openmoji": Attribution(
        disclaimer=(
            "These are scores of a toy model that was trained on tiny renderings of OpenMoji drawings. They "
            "illustrate a method and say nothing about the worth of any designer or drawing: another model, "
            "another seed or another property would order them differently."
        ),
        credit=(
            "The drawings are by the designers named on this page, for OpenMoji, the open-source emoji and "
            "icon project. Changes: rendered on white and averaged down to small squares. The drawings shown "
            "here, and generated images that resemble them, are under the same licence."
        ),
        licence="CC BY-SA 4.0",
        url="https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "folder": Attribution(
        disclaimer=(
            "Credits describe one model, one way of removing data and the properties named here. They are "
            "measurements with errors, not a judgement of the people who gave the images."
        ),
        credit="The images shown belong to those who contributed them.",
        licence="as agreed with the contributors",
    ),
}
"""By the source of the data, `data.source` in the configuration."""
