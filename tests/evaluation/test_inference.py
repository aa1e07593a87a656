import numpy as np
import pytest
import torch
from small_systems import build, queries

from medvlp_lite.evaluation.inference import (
    embed_dataset,
    embed_reports,
    embed_texts,
    heatmaps,
    image_batches,
    patients_of,
    pooled_features,
    score_dataset,
)

QUERIES = queries("convirt")


@pytest.fixture(scope="module")
def system():
    from conftest import made_up_studies

    from medvlp_lite.studies import StudyDataset

    return build("convirt", StudyDataset(made_up_studies(24), size=32))


def test_every_answer_keeps_the_order_and_comes_as_a_cpu_array(system, dataset):
    scores = score_dataset(system, dataset, QUERIES)
    assert scores.shape == (len(dataset), 3) and embed_dataset(system, dataset).shape == (len(dataset), 16)
    assert np.allclose(scores[20:], score_dataset(system, dataset.subset(range(20, 24)), QUERIES), atol=1e-5)
    assert heatmaps(system, dataset, "effusion").shape[0] == len(dataset) == len(embed_reports(system, dataset))
    assert len(patients_of(dataset)) == len(dataset) and patients_of(dataset)[2:4] == ["p001", "p001"]


def test_features_are_means_over_the_map(system, dataset):
    images = next(image_batches(dataset, system.device))
    with torch.no_grad():
        expected = system.image_features(images).mean(dim=(2, 3))
    assert np.allclose(pooled_features(system, dataset), expected, atol=1e-5)


def test_dropout_is_off_and_batches_do_not_matter(system, dataset):
    system.train()
    first = embed_dataset(system, dataset)
    assert not system.training and np.array_equal(first, embed_dataset(system, dataset))
    sizes = [len(images) for images in image_batches(dataset, system.device, size=10)]
    assert sizes == [10, 10, 4]


def test_equal_texts_get_equal_vectors(system):
    texts = ["There is effusion.", "Clear.", "There is effusion."]
    vectors = embed_texts(system, texts)
    assert np.array_equal(vectors[0], vectors[2]) and not np.allclose(vectors[0], vectors[1])
    assert np.allclose(vectors[1], system.embed_texts(["Clear."]).detach().numpy()[0], atol=1e-5)
