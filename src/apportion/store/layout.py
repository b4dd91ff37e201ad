"""Where everything is in a store: the key of each kind of object, and the address of a round.

No other module builds a key or a round's address itself.
"""

import re

from apportion.errors import StoreError
from apportion.store.contract import Store

EXPIRING = ("checkpoints", "samples")
"""Folders whose objects may expire: they are made again where they are needed."""
KEPT = ("games", "rounds", "heads", "manifests", "images", "references", "networks", "scores", "evidence")
"""Folders whose objects must stay."""

CONFIG_FILE = "config.json"
PLAN_FILE = "plan.json"
CREDITS_FILE = "credits.json"
CREDITS_CSV = "credits.csv"
FOLLOWUP_FILE = "followup.json"
EVIDENCE_FILE = "evidence.json"
STATEMENT_FILE = "statement.csv"
REPORT_FILE = "report.html"
COMMIT_FILE = "round.json"

MADE_BY = {
    CREDITS_FILE: "attribute",
    CREDITS_CSV: "attribute",
    FOLLOWUP_FILE: "attribute",
    EVIDENCE_FILE: "evaluate",
    STATEMENT_FILE: "publish",
    REPORT_FILE: "publish",
}
"""The files of a committed round, and the stage that makes each again where it is missing."""

RECORD = re.compile(r"games/[0-9a-f]{32}/ledger/(?P<key>[0-9a-f]{32})\.json")
"""The key of a ledger record."""


def images_key(data: str) -> str:
    """Training images of one contributor, by their data hash."""
    return f"images/{data}.safetensors"


def manifest_key(manifest: str) -> str:
    return f"manifests/{manifest}.parquet"


def network_key(network: str) -> str:
    """A feature network, by its hash."""
    return f"networks/{network}.safetensors"


def trained_network_key(address: str) -> str:
    """Which network was trained on images, by the address of what it was trained on."""
    return f"networks/trained/{address}.json"


def reference_key(address: str) -> str:
    """What a property compares images with."""
    return f"references/{address}.safetensors"


def scores_key(address: str) -> str:
    """The scores of an influence method."""
    return f"scores/{address}.json"


def evidence_key(address: str) -> str:
    """Evidence of another round that rounds cite, by its hash."""
    return f"evidence/{address}.json"


def weights_key(address: str) -> str:
    """The weights of a model."""
    return f"checkpoints/{address}.safetensors"


def samples_key(address: str) -> str:
    """Generated images."""
    return f"samples/{address}.safetensors"


def game_key(game: str) -> str:
    return f"games/{game}/game.json"


def ledger_prefix(game: str) -> str:
    """How the keys of a game's ledger records start."""
    return f"games/{game}/ledger/"


def record_key(game: str, key: str) -> str:
    """One evaluation in the ledger of a game."""
    return f"{ledger_prefix(game)}{key}.json"


def costs_prefix(game: str) -> str:
    """How the keys start of what weights cost that coalitions of a game share."""
    return f"games/{game}/costs/"


def cost_key(game: str, address: str) -> str:
    """What weights with this address cost, which coalitions of a game share. The weights may expire."""
    return f"{costs_prefix(game)}{address}.json"


def round_key(round_id: str, name: str) -> str:
    """One of a round's own files, such as PLAN_FILE or CREDITS_FILE."""
    return f"rounds/{round_id}/{name}"


def head_key(project: str) -> str:
    """The pointer to the last committed round of a project."""
    return f"heads/{project}"


def round_uri(store: Store, round_id: str) -> str:
    """The address of a round, as `plan` prints it."""
    return f"{store.uri.rstrip('/')}/rounds/{round_id}"


def split_round_uri(uri: str) -> tuple[str, str]:
    """The store's URI and the id of a round. Raises StoreError where the address is not one of a round."""
    root, _, round_id = uri.rstrip("/").rpartition("/rounds/")
    if not root:
        raise StoreError(f"found round address {uri!r}, expected <store>/rounds/<id> as `plan` prints it")
    return root, round_id


def committed_rounds(store: Store) -> list[str]:
    """The ids of all rounds of a store that are committed, sorted."""
    keys = (key.split("/") for key in store.list("rounds/"))
    return [parts[1] for parts in keys if len(parts) == 3 and parts[2] == COMMIT_FILE]
