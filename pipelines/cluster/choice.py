"""Which backend runs the units: this process, or Ray."""

from contextlib import AbstractContextManager, nullcontext

from pipelines.run.pipeline import Backend, InlineBackend
from uniform.errors import PipelineError


def open_backend(*, inline: bool, workers: int | None, address: str | None) -> AbstractContextManager[Backend]:
    """The backend that the options of a command ask for; Ray ends with the context where it was started for it.

    Args:
        inline: run every unit in this process; Ray is not imported.
        workers: worker processes per stage; None takes what the resources allow.
        address: of a running Ray cluster; None starts Ray on this machine.
    Raises: PipelineError where the options contradict each other.
    """
    if not inline:
        from pipelines.cluster.backend import RayBackend

        return RayBackend(workers=workers, address=address)
    if workers is not None or address is not None:
        raise PipelineError("--inline runs in this process alone; leave out --workers and --address")
    return nullcontext(InlineBackend())
