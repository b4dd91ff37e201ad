"""Section `tracking`: the MLflow server or file that rounds are logged to."""

from typing import Annotated

from pydantic import StringConstraints

from apportion.config.credentials import Address
from apportion.config.strict import Strict


class TrackingOptions(Strict):
    """MLflow; a `uri` of null switches tracking off."""

    uri: Address | None = "sqlite:///{workdir}/mlflow.db"
    artifacts: Address | None = "{workdir}/artifacts"
    experiment: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] = "apportion"
