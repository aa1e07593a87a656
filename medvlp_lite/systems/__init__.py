"""The systems behind one interface. Importing the package registers all of them, so that any saved folder can be read."""

from medvlp_lite.systems import convirt, maco, medfilip, medklip, mskpt, mskpt_staging, supervised, unimodal

__all__ = ["convirt", "maco", "medfilip", "medklip", "mskpt", "mskpt_staging", "supervised", "unimodal"]
