"""One file per trace format; each reads a file into :class:`~heterarch.workload.formats.base.Calls`."""
