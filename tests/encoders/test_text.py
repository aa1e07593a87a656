import subprocess
import sys

import pytest
import torch

from medvlp_lite.encoders.attention import attend
from medvlp_lite.encoders.text import CLIPText, ReportTokenizer, TextEncoder, masked_mean

CORPUS = ["There is a small left effusion.", "No pneumothorax. The heart is normal.", "Mild edema. Small nodule."] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return ReportTokenizer.train(CORPUS, 120)


def test_numbers_instead_of_a_name_size_a_bert(tokenizer):
    text = TextEncoder(tokenizer, [12, 2, 3, 20], max_length=9)
    assert text.bert.config.intermediate_size == 20 and text.bert.config.num_hidden_layers == 2
    with pytest.raises(ValueError, match="no BERT 'huge'"):
        TextEncoder(tokenizer, "huge")


def test_written_out_attention_equals_the_fused_one():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7) > 0.4
    for seen in (None, mask):
        fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        assert torch.allclose(attend(q, k, v, seen), fused, atol=1e-10)


@pytest.mark.parametrize("variant", ["lite", [16, 3, 4]])
def test_reading_by_length_equals_transformers_own_bert(tokenizer, variant):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, variant, 40).train()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    texts = [" ".join(CORPUS[i % 3] for i in range(k % 5 + 1)) for k in range(37)]
    ids = encoder.ids(texts)
    assert ids.dtype == torch.int32
    states, mask = encoder.encode(torch.nn.functional.pad(ids, (0, 3), value=tokenizer.pad_id))
    theirs = encoder.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert states.shape == theirs.shape and torch.allclose(states[mask], theirs[mask], atol=1e-5)
    assert not states[~mask].isnan().any()
    weights = list(encoder.bert.parameters())
    ours, own = (torch.autograd.grad((x[mask] ** 2).sum(), weights, retain_graph=True) for x in (states, theirs))
    for one, other in zip(ours, own):
        assert torch.allclose(one, other, atol=1e-4 * max(1.0, float(other.abs().max())))


def test_half_precision_reads_nearly_the_same(tokenizer):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, "lite", 40).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = encoder.pooled(encoder.ids(CORPUS))
    assert torch.allclose(half.float(), encoder.pooled(encoder.ids(CORPUS)), atol=0.05)


def test_many_texts_are_cut_into_pieces_as_few_are(tokenizer):
    many = tokenizer(CORPUS * 300, 20)
    assert torch.equal(many, tokenizer(CORPUS, 20).repeat(300, 1))


def test_clip_answers_with_the_state_at_the_first_end(tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"a": 5, "b": 6, "<|endoftext|>": 49407, "?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 49407)])  # fmt: skip
    tower = CLIPText(ReportTokenizer(words.to_str())).eval()
    with torch.no_grad():
        alone, beside = tower(["a b"]), tower(["a b", "b a a b"])
        states = tower.core(input_ids=torch.tensor([[5, 6, 49407]])).last_hidden_state
    assert torch.allclose(alone, states[:, 2], atol=1e-5) and torch.allclose(alone[0], beside[0], atol=1e-5)
    assert tower.ids(["a " * 100]).shape == (1, 77) and tower.ids(["a " * 100])[0, -1] == 49407


def test_tokenizer_pads_cuts_and_keeps_the_end(tokenizer):
    ids = tokenizer(["effusion", "there is a small left effusion and more words"], max_length=6)
    assert ids.shape == (2, 6)
    assert ids[0, -1] == tokenizer.pad_id
    assert tokenizer.tokens("effusion")[0] == "[CLS]" and ids[1, -1] == ids[0][ids[0] != tokenizer.pad_id][-1]
    with pytest.raises(ValueError, match="list of at least one string"):
        tokenizer("effusion", 8)
    with pytest.raises(ValueError, match="holds no text"):
        ReportTokenizer.train(["", " . "])


def test_tokenizer_does_not_depend_on_the_process():
    code = (
        "import hashlib,random;from medvlp_lite.encoders.text import ReportTokenizer as T;r=random.Random(0);"
        "w=[''.join(r.choice('abcdefgh') for _ in range(r.randint(3,9))) for _ in range(300)];"
        "c=[' '.join(r.choice(w) for _ in range(30)) for _ in range(60)];"
        "print(hashlib.sha256(T.train(c,400).definition.encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_padding_changes_no_text_vector(tokenizer):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, "lite", 32).eval()
    with torch.no_grad():
        alone = masked_mean(*encoder(["Small nodule."]))
        beside = masked_mean(*encoder(["Small nodule.", "No pneumothorax. The heart is normal. Mild edema."]))
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_masked_mean_by_hand():
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]])
    assert masked_mean(tokens, torch.tensor([[True, True, False]])).tolist() == [[2.0, 1.0]]
    assert masked_mean(tokens, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]


def test_a_hub_model_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="not in the local cache"):
        TextEncoder.from_hub(str(tmp_path / "no-such-model"))


def test_a_local_copy_of_a_published_model_is_read(tmp_path):
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    mine = ReportTokenizer.train(["small nodule nodules"], 60)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(mine.definition), pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(mine), **sizes)).save_pretrained(tmp_path)
    encoder = TextEncoder.from_hub(str(tmp_path)).eval()
    tokens, mask = encoder(["small nodules small", "small"])
    assert tokens.shape == (2, 5, 16) and mask.sum(dim=1).tolist() == [5, 3]
    assert encoder.tokenizer.tokens("small") == ["[CLS]", "small", "[SEP]"]
