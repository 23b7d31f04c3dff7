"""CTRL, trained: SASRec whose item vectors began as their titles' (`training.ctrl`, docs/systems.md)."""

from llmsrec.models.cf.sasrec import SASRec


class CTRL(SASRec):
    """See `SASRec`; what sets it apart are its first values."""

    system = "ctrl"
