"""Who does the jobs: no setting of a record, for its tables are the same whoever does them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.errors import Problem
from lensbench.spec import Count, Spec, idle


class WorkersSpec(Spec):
    """Workers, each a process that holds the model."""

    workers: Annotated[Count | None, Parameter("--workers")] = None
    """Do the jobs in so many processes, each with the model (needs the extra `ray`)."""
    ray: Annotated[str | None, Parameter("--ray")] = None
    """HOST:PORT of a Ray cluster that this machine is part of, or auto."""
    shared_folder: Annotated[str | None, Parameter("--shared")] = None
    """Where workers that do not see the run folder leave parts: s3://..., gs://..., a folder."""
    threads: Annotated[Count | None, Parameter("--threads")] = None
    """Threads to a sum, in each process; decides last digits. Default: the record's, or torch's."""

    def problems(self) -> list[Problem]:
        """What would have no effect, and addresses that a driver cannot join by."""
        if self.ray is None:
            return idle(self, "workers", "shared_folder")
        if self.ray.startswith("ray://"):
            what = f"{self.ray} is Ray Client's address, through which no folder can be seen"
            remedy = "Start this command on a machine of the cluster, with --ray auto."
            return [Problem("ray", what, remedy)]
        host, colon, port = self.ray.rpartition(":")
        if self.ray != "auto" and not (host and colon and port.isdecimal()):
            return [Problem("ray", f"it is {self.ray!r}", "Give HOST:PORT, or auto.")]
        return []

    @property
    def here(self) -> bool:
        """This process does the jobs itself."""
        return self.workers is None and self.ray is None
