"""The frozen text model behind soft labels: sentences to vectors, from the hub or pre-trained here by guessing words (F-5).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.encoders.text import MASK, SPECIAL_TOKENS, ReportTokenizer, TextEncoder, masked_mean

SENTENCE_MODELS = {
    "clinicalbert": "emilyalsentzer/Bio_ClinicalBERT",  # named in the MedFILIP paper
    "mpnet": "sentence-transformers/all-mpnet-base-v2",  # loaded by its code
}
STORED = Path(__file__).parent / "data"
MASKED_SHARE = 0.15


Encode = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]


class SentenceEncoder:
    """Texts to unit vectors: the mean of a frozen text encoder's token states, padding left out.

    ``encode`` turns texts into states (B, L, width) and the mask (B, L) of those that are no padding. ``centre`` (width,)
    is subtracted from the mean.
    """

    def __init__(self, encode: Encode, centre: torch.Tensor | float = 0.0):
        self.encode, self.centre = encode, centre

    @torch.no_grad()
    def pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """Mean token states (len(texts), width), neither centred nor of length 1."""
        parts = [masked_mean(*self.encode(list(texts[i : i + 64]))) for i in range(0, len(texts), 64)]
        return torch.cat(parts).float()

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), width)."""
        return F.normalize(self.pooled(texts) - self.centre, dim=-1)

    def centred(self, texts: Sequence[str]) -> SentenceEncoder:
        """The same model with the mean vector of ``texts`` taken away, which spreads crowded cosines."""
        return SentenceEncoder(self.encode, self.pooled(texts).mean(dim=0))

    @classmethod
    def from_hub(cls, name: str, max_length: int = 128) -> SentenceEncoder:
        """A published model: "clinicalbert" (the paper's), "mpnet" (its code's), any hub name, or a downloaded folder.

        Raises OSError with one sentence when it is neither in the local cache nor reachable.
        """
        from transformers import AutoModel, AutoTokenizer

        name = SENTENCE_MODELS.get(name, name)
        try:
            model, tokenizer = AutoModel.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
        except OSError as error:
            raise OSError(
                f"text model {name!r} is not in the local cache and the hub cannot be reached; go online once, or "
                "give the path of a downloaded folder"
            ) from error

        def encode(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
            batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            return model(**batch).last_hidden_state, batch["attention_mask"].bool()

        return cls(encode)

    @classmethod
    def stored(cls, folder: Path = STORED) -> SentenceEncoder:
        """The small encoder that comes with the package; ``similarity_text.json`` beside it says what it was made of."""
        from safetensors.torch import load_file

        about = json.loads((folder / "similarity_text.json").read_text(encoding="utf-8"))
        state = {name: tensor.float() for name, tensor in load_file(folder / "similarity_text.safetensors").items()}
        encoder = TextEncoder(ReportTokenizer(json.dumps(about["tokenizer"])), max_length=about["max_length"])
        encoder.load_state_dict(state)
        return cls(encoder.eval().requires_grad_(False))

    def store(self, folder: Path, made_of: str) -> None:
        """Write what ``stored`` reads: half-precision weights, tokenizer, and ``made_of``, a sentence on the training text.

        Only for an encoder trained here. Raises ValueError otherwise.
        """
        from safetensors.torch import save_file

        if not isinstance(self.encode, TextEncoder):
            raise ValueError("only an encoder that was trained here is stored; a hub model keeps its own files")
        folder.mkdir(parents=True, exist_ok=True)
        halves = {name: tensor.half().contiguous() for name, tensor in self.encode.state_dict().items()}
        save_file(halves, folder / "similarity_text.safetensors")
        digest = hashlib.sha256((folder / "similarity_text.safetensors").read_bytes()).hexdigest()
        about = {
            "made_of": made_of,
            "sha256": digest,
            "max_length": self.encode.max_length,
            "tokenizer": json.loads(self.encode.tokenizer.definition),
        }
        (folder / "similarity_text.json").write_text(json.dumps(about), encoding="utf-8")


def mask_tokens(ids: torch.Tensor, vocabulary: int, share: float = MASKED_SHARE) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide words for masked language modelling: ids (B, L) to the ids shown and a bool map (B, L) of those to guess.

    Of the pieces to guess, 80 % become [MASK], 10 % another piece, 10 % stay; special tokens, the first ids of a
    ReportTokenizer, are never chosen.
    """
    special = len(SPECIAL_TOKENS)
    draw = torch.rand(ids.shape, device=ids.device)
    chosen = (draw < share) & (ids >= special)
    shown = ids.masked_fill(chosen & (draw < 0.8 * share), SPECIAL_TOKENS.index(MASK))
    swapped = chosen & (draw >= 0.8 * share) & (draw < 0.9 * share)
    return torch.where(swapped, torch.randint_like(ids, special, vocabulary), shown), chosen


class MaskedLanguageModel(nn.Module):
    """A text encoder that guesses hidden words; the output matrix is the input embedding."""

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder
        self.transform = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.LayerNorm(encoder.width))
        self.bias = nn.Parameter(torch.zeros(len(encoder.tokenizer)))

    def loss(self, texts: Sequence[str]) -> torch.Tensor:
        """Cross-entropy of the hidden pieces of ``texts``, in nats; 0 when chance hid none."""
        ids = self.encoder.tokenizer(texts, self.encoder.max_length).to(self.encoder.device)
        shown, chosen = mask_tokens(ids, len(self.encoder.tokenizer))
        attended = (ids != self.encoder.tokenizer.pad_id).long()
        states = self.encoder.bert(input_ids=shown, attention_mask=attended).last_hidden_state
        if not chosen.any():
            return states.sum() * 0.0
        logits = self.transform(states[chosen]) @ self.encoder.bert.embeddings.word_embeddings.weight.t() + self.bias
        return F.cross_entropy(logits, ids[chosen])


def pretrain(
    sentences: Sequence[str],
    tokenizer: ReportTokenizer,
    *,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    max_length: int = 96,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> tuple[SentenceEncoder, list[float]]:
    """Train a small encoder by masked language modelling; returns it, frozen, and the losses.

    Raises ValueError when there are fewer sentences than a batch.
    """
    if len(sentences) < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least as many sentences, got {len(sentences)}")
    torch.manual_seed(seed)
    model = MaskedLanguageModel(TextEncoder(tokenizer, "lite", max_length)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        chosen = torch.randint(len(sentences), (batch_size,)).tolist()
        loss = model.loss([sentences[i] for i in chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if log and (step + 1) % max(1, steps // 6) == 0:
            recent = losses[-max(1, steps // 6) :]
            log(f"step {step + 1}/{steps}  masked-word loss {sum(recent) / len(recent):.3f}")
    return SentenceEncoder(model.encoder.eval().requires_grad_(False)), losses
