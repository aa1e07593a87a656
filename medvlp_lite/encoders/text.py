"""Text encoders: a WordPiece tokenizer trained on the corpus at hand, and BERT in two sizes.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, END, MASK)
BERT_SIZES = {"lite": (128, 1, 4), "base": (768, 12, 12)}  # width, depth, heads


class ReportTokenizer:
    """WordPiece: report strings to padded ids. Lower-cased; frequent words stay whole, rare ones fall into pieces.

    Make one with ``ReportTokenizer.train(corpus)``.
    """

    def __init__(self, definition: str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(definition)
        self.pad_id = self._tokenizer.token_to_id(PAD)

    @classmethod
    def train(cls, corpus: Iterable[str], vocabulary_size: int = 1000) -> ReportTokenizer:
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

    def tokens(self, text: str) -> list[str]:
        """The pieces of one text, for looking at."""
        return self._tokenizer.encode(text).tokens

    def __call__(self, texts: Sequence[str], max_length: int) -> torch.Tensor:
        """Ids (B, L), L <= ``max_length``, padded to the longest text. Raises ValueError on an empty list."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts must be a list of at least one string, got {texts!r}")
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        end = self._tokenizer.token_to_id(END)
        tail = [] if end is None else [end]  # the official MaCo vocabulary knows no end
        clipped = [ids if len(ids) <= max_length else [*ids[: max_length - len(tail)], *tail] for ids in encoded]
        padded = torch.full((len(clipped), max(map(len, clipped))), self.pad_id, dtype=torch.long)
        for row, ids in zip(padded, clipped):
            row[: len(ids)] = torch.tensor(ids)
        return padded


class TextEncoder(nn.Module):
    """BERT over report text: B strings to tokens (B, L, C) and the mask (B, L) that tells words from padding.

    ``variant`` "lite" (width 128, 1 layer), "base" (width 768, 12 layers) or the numbers (width, layers, heads[, feed-
    forward width]), from random weights. ``max_length`` counts tokens; longer reports are cut. For published weights use ``TextEncoder.from_hub``.
    Raises ValueError for an unknown variant.
    """

    def __init__(self, tokenizer: ReportTokenizer, variant: str | Sequence[int] = "lite", max_length: int = 96):
        super().__init__()
        from transformers import BertConfig, BertModel

        if isinstance(variant, str) and variant not in BERT_SIZES:
            raise ValueError(f"no BERT {variant!r}; use one of {sorted(BERT_SIZES)}")
        self.width, depth, heads, *feedforward = BERT_SIZES[variant] if isinstance(variant, str) else variant
        self.tokenizer, self.max_length = tokenizer, max_length
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=feedforward[0] if feedforward else 4 * self.width,
            max_position_embeddings=max_length,
            pad_token_id=tokenizer.pad_id,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode(self.tokenizer(texts, self.max_length).to(self.device))

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, L, C) and their mask (B, L) for word-piece numbers (B, L) that a tokenizer made before.

        Columns that hold nothing but padding are dropped first.
        """
        mask = ids != self.tokenizer.pad_id
        longest = int(mask.sum(dim=1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        return self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask

    @classmethod
    def from_hub(cls, name: str = "emilyalsentzer/Bio_ClinicalBERT", max_length: int = 128) -> TextEncoder:
        """Published weights from the Hugging Face hub or a local folder: Bio_ClinicalBERT by default (K-4, F-5).

        Raises OSError with one sentence when the model is neither in the local cache nor reachable.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            bert, tokenizer = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        except OSError as error:
            raise OSError(
                f"text model {name!r} is not in the local cache and the hub cannot be reached; go online once, or "
                "give the path of a downloaded folder"
            ) from error
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.tokenizer = ReportTokenizer(tokenizer.backend_tokenizer.to_str())
        encoder.bert, encoder.width, encoder.max_length = bert, bert.config.hidden_size, max_length
        return encoder


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of tokens (B, L, C) over positions where ``mask`` (B, L) is true: (B, C); zero where none is."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
