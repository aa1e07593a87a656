"""Text encoders: a WordPiece tokenizer trained on the corpus at hand, and BERT in two sizes.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.encoders.attention import attend

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, END, MASK)
# as published tokenizers call them
PADS, STARTS, ENDS = (PAD, "<pad>"), (START, "<s>", "<|startoftext|>"), (END, "</s>", "<|endoftext|>")
BERT_SIZES = {
    "lite": (96, 1, 3, 192),
    "base": (768, 12, 12),
}  # width, depth, heads, and the feed-forward width where it is not four times the width
GROUP = 32  # texts of like length that are read together
CHUNK = 2048  # texts that are cut into pieces at once
CLIP_B32 = "openai/clip-vit-base-patch32"


class ReportTokenizer:
    """WordPiece: report strings to padded ids. Lower-cased; frequent words stay whole, rare ones fall into pieces.

    Make one with ``ReportTokenizer.train(corpus)``.
    """

    def __init__(self, definition: str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.start_id, self.end_id = (
            self._first_of(STARTS),
            self._first_of(ENDS),
        )  # no end in the official MaCo vocabulary
        pad = self._first_of(PADS)
        self.pad_id = self.end_id if pad is None else pad  # CLIP fills up with its end

    def _first_of(self, names: Sequence[str]) -> int | None:
        return next((i for i in map(self._tokenizer.token_to_id, names) if i is not None), None)

    @classmethod
    def train(cls, corpus: Iterable[str], vocabulary_size: int = 2000) -> ReportTokenizer:
        """Learn ``vocabulary_size`` pieces from the corpus. Raises ValueError when the corpus holds no word."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

        sentences = sorted({line.strip() for text in corpus for line in text.split(".") if line.strip()})
        if not sentences:
            raise ValueError("cannot train a tokenizer: the corpus holds no text")
        normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        learner.normalizer, learner.pre_tokenizer = normalizer, splitter
        letters = sorted(set("".join(normalizer.normalize_str(sentence) for sentence in sentences)) - {" "})
        # Letters are numbered up front: the trainer breaks ties by id and would else number them in random order.
        first = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
        trainer = trainers.WordPieceTrainer(vocab_size=vocabulary_size, special_tokens=first, show_progress=False)
        learner.train_from_iterator(sentences, trainer)

        tokenizer = Tokenizer(models.WordPiece(vocab=learner.get_vocab(), unk_token=UNKNOWN))
        tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
        )
        return cls(tokenizer.to_str())

    @property
    def definition(self) -> str:
        """The whole tokenizer as one JSON string."""
        return self._tokenizer.to_str()

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def id_of(self, piece: str) -> int:
        """The number of a piece. Raises ValueError when the vocabulary does not hold it."""
        number = self._tokenizer.token_to_id(piece)
        if number is None:
            raise ValueError(f"the vocabulary holds no piece {piece!r}")
        return number

    def tokens(self, text: str) -> list[str]:
        """The pieces of one text, for looking at."""
        return self._tokenizer.encode(text).tokens

    def __call__(self, texts: Sequence[str], max_length: int) -> torch.Tensor:
        """Ids (B, L) int32, L <= ``max_length``, padded to the longest text. Raises ValueError on an empty list."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts must be a list of at least one string, got {texts!r}")
        tail = [] if self.end_id is None else [self.end_id]
        rows = []
        for start in range(0, len(texts), CHUNK):
            for encoding in self._tokenizer.encode_batch(list(texts[start : start + CHUNK])):
                pieces = encoding.ids
                short = pieces if len(pieces) <= max_length else [*pieces[: max_length - len(tail)], *tail]
                rows.append(torch.tensor(short, dtype=torch.int32))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)


class TextEncoder(nn.Module):
    """BERT over report text: B strings to tokens (B, L, C) and the mask (B, L) that tells words from padding.

    ``variant`` "lite" (width 96, 1 layer), "base" (width 768, 12 layers) or the numbers (width, layers, heads[, feed-
    forward width]), from random weights; only "base" drops out. Texts are cut to ``max_length`` tokens. Raises ValueError
    for an unknown variant.
    """

    def __init__(self, tokenizer: ReportTokenizer, variant: str | Sequence[int] = "lite", max_length: int = 96):
        super().__init__()
        from transformers import BertConfig, BertModel

        if isinstance(variant, str) and variant not in BERT_SIZES:
            raise ValueError(f"no BERT {variant!r}; use one of {sorted(BERT_SIZES)}")
        self.width, depth, heads, *feedforward = BERT_SIZES[variant] if isinstance(variant, str) else variant
        self.tokenizer, self.max_length = tokenizer, max_length
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=self.width, num_hidden_layers=depth, num_attention_heads=heads,
            intermediate_size=feedforward[0] if feedforward else 4 * self.width, max_position_embeddings=max_length,
            pad_token_id=tokenizer.pad_id, attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.1 if variant == "base" else 0.0,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Word-piece numbers (B, L) of texts, padded."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode(self.ids(texts).to(self.bert.device))

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, L, C) and their mask (B, L) for word-piece numbers (B, L) that ``ids`` made before.

        On a CPU texts of like length are read together, which leaves little padding to compute, and columns of nothing else
        are not returned.
        """
        mask = ids != self.tokenizer.pad_id
        if ids.is_cuda or self.bert.config.model_type != "bert":
            return self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask
        lengths = mask.sum(dim=1)
        order = lengths.argsort(descending=True)
        longest = int(lengths.max())
        groups = [_read_group(self.bert, ids[rows], mask[rows], longest) for rows in order.split(GROUP)]
        return torch.cat(groups).index_select(0, order.argsort()), mask[:, :longest]

    def pooled(self, ids: torch.Tensor) -> torch.Tensor:
        """The mean token (B, C) of word-piece numbers (B, L), padding left out."""
        return masked_mean(*self.encode(ids))

    @classmethod
    def from_hub(cls, name: str = "emilyalsentzer/Bio_ClinicalBERT", max_length: int = 128) -> TextEncoder:
        """Published weights from the Hugging Face hub or a local folder: Bio_ClinicalBERT by default (K-4, F-5).

        Raises OSError with one sentence when the model is neither in the local cache nor reachable.
        """
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.tokenizer, encoder.bert = hub_tokenizer(name), _from_hub("AutoModel", name)
        encoder.width, encoder.max_length = encoder.bert.config.hidden_size, max_length
        return encoder


def _read_group(bert: nn.Module, ids: torch.Tensor, mask: torch.Tensor, longest: int) -> torch.Tensor:
    """What transformers' BertModel gives for texts of like length, the longest one first: (b, longest, C), zeros at the end."""
    length, table = int(mask[0].sum()), bert.embeddings
    mask = mask[:, None, None, :length]
    places = table.position_embeddings.weight[:length] + table.token_type_embeddings.weight[0]
    states = table.dropout(table.LayerNorm(table.word_embeddings(ids[:, :length]) + places))
    for layer in bert.encoder.layer:
        own = layer.attention.self
        parts = (own.query, own.key, own.value)
        qkv = F.linear(states, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        heads = qkv.unflatten(-1, (3, own.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = attend(*heads, mask).transpose(1, 2).flatten(2)
        states = layer.attention.output(seen, states.to(seen.dtype))  # one precision from here on
        states = layer.output(layer.intermediate(states), states)
    return F.pad(states, (0, 0, 0, longest - length))


def _from_hub(kind: str, name: str) -> Any:
    """``transformers.<kind>`` from the hub's cache, the hub or a folder; OSError with one sentence where there is none."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(name)
    except OSError as error:
        raise OSError(
            f"{name!r} is not in the local cache, nor can it be fetched; go online once, or name a downloaded folder"
        ) from error


def hub_tokenizer(name: str) -> ReportTokenizer:
    """The word pieces of a published model. Raises OSError with one sentence when it is neither cached nor reachable."""
    return ReportTokenizer(_from_hub("AutoTokenizer", name).backend_tokenizer.to_str())


class CLIPText(nn.Module):
    """CLIP's text tower (F-6), which the official MedFILIP code uses: twelve causal layers of width 512, from random weights.

    ``tokenizer`` is ``hub_tokenizer(CLIP_B32)``. Texts are cut to 77 pieces; the official code fails on longer ones.
    """

    def __init__(self, tokenizer: ReportTokenizer):
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        model = CLIPTextModel(CLIPTextConfig(attn_implementation="eager"))
        self.core = getattr(model, "text_model", model)  # transformers 4 wraps it once more
        self.tokenizer, self.width, self.max_length = tokenizer, 512, 77

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Piece numbers (B, L), filled up with the end token."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        return self.pooled(self.ids(texts).to(next(self.parameters()).device))

    def pooled(self, ids: torch.Tensor) -> torch.Tensor:
        """The state (B, 512) at the first end token of piece numbers (B, L)."""
        states = self.core(input_ids=ids).last_hidden_state
        first_end = (ids == self.tokenizer.end_id).int().argmax(dim=1)  # causal: what fills up after it changes nothing
        return states[torch.arange(len(ids), device=ids.device), first_end]


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of tokens (B, L, C) over positions where ``mask`` (B, L) is true: (B, C); zero where none is."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
