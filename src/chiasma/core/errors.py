"""The errors a user can cause, each with a message that names the thing, the rule and both values."""


class ChiasmaError(Exception):
    """Anything a user can cause and mend; shown as one line, with a traceback only on request."""


class ConfigError(ChiasmaError, ValueError):
    """A setting that is unknown, of the wrong type, or outside its range."""


class DataError(ChiasmaError, ValueError):
    """A manifest, image or label that cannot be used, and why."""


class CorruptFileError(ChiasmaError):
    """A file whose bytes are not those that were written; it is never used."""


class LeaderFailedError(ChiasmaError):
    """The process that leads those that train together has failed and says why itself; the others keep quiet."""


class RunBusyError(ChiasmaError):
    """A run folder that another process is writing to."""


class StorageError(ChiasmaError):
    """A folder that cannot be written to: read-only, full, or on a network drive."""


class NonFiniteError(ChiasmaError):
    """A NaN or an infinity in training; names the tensor and the step."""


class SealedTestError(ChiasmaError):
    """An attempt to read the test split without an opening in the ledger."""


class JailError(ChiasmaError):
    """The jail for generated code cannot be closed or kept on this machine; not the fault of what was to run in it."""


class UntrustedSourceError(ChiasmaError):
    """Generated source that nobody has approved; it runs in the jail or not at all."""
