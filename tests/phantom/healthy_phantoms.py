"""Patients with nothing to see, and films as numbers."""

from medvlp_lite.phantom import render, sample_patient


def healthy(seed: int, **options):
    return sample_patient(seed, prevalence=0.0, devices=False, **options)


def grey(patient, size=96):
    return render(patient, size).image.astype(float)
