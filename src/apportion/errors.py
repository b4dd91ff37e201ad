"""The exceptions of Apportion; every message says what was found, what was expected and which option to
change.

ApportionError
├── ConfigError        the configuration, before any compute
├── DataError          images, manifests, duplicate or unreadable samples
├── StoreError         the object store
│   ├── NotFound       nothing stored under that name
│   ├── Damaged        an object whose checksum or form is wrong; it is never overwritten
│   └── Conflict       another process moved a pointer first
├── DiffusionError     a model that diverged
├── ValuationError     a design or an estimate that is impossible with these numbers
├── PropertyError      a property that cannot be measured
├── TrackingError      the tracking server
└── ClusterError       Kubeflow Pipelines, or what runs there
"""


class ApportionError(Exception):
    """Base of every error raised on purpose by Apportion."""


class ConfigError(ApportionError):
    """The configuration has an option that is unknown, of a wrong type or impossible."""


class DataError(ApportionError):
    """Training data that cannot be used as given."""


class StoreError(ApportionError):
    """The object store refused a request, or lacks something that Apportion needs."""


class NotFound(StoreError):
    """Nothing is stored under that name."""


class Damaged(StoreError):
    """A stored object does not match its checksum or its form. Reported, never overwritten."""


class Conflict(StoreError):
    """A pointer was moved by another process between reading and writing."""


class DiffusionError(ApportionError):
    """A model diverged: its weights or its images are not finite numbers."""


class ValuationError(ApportionError, ValueError):
    """A design or an estimate that is impossible with these numbers."""


class PropertyError(ApportionError):
    """A property that cannot be measured."""


class TrackingError(ApportionError):
    """The tracking server cannot be reached or refuses what is logged."""


class ClusterError(ApportionError):
    """Kubeflow Pipelines cannot be reached or refuses a request, or a run there has failed."""
