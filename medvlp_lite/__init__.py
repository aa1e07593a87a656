"""MedVLP-Lite: four chest X-ray vision-language systems, built again with code that runs. Not for clinical use."""

__version__ = "0.1.0"
