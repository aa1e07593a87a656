"""The small similarity model of MedFILIP made anew: ``python benchmarks/similarity_model.py FOLDER``; the one in ``encoders/data`` was."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medvlp_lite.encoders.sentence import STORED_SIZE
from medvlp_lite.encoders.text import END, MASK, PAD, START, UNKNOWN, ReportTokenizer, TextEncoder
from medvlp_lite.phantom.corpus import SEEDS_APART
from medvlp_lite.phantom.reports import write_report
from medvlp_lite.phantom.sampling import sample_patient
from medvlp_lite.reports.knowledge import base
from medvlp_lite.reports.sections import findings_text

SPECIAL = {"pad_token": PAD, "unk_token": UNKNOWN, "cls_token": START, "sep_token": END, "mask_token": MASK}


def similarity_corpus(patients: int = 6000, seed: int = 9, more: Iterable[str] = ()) -> list[str]:
    """Sentences to pre-train the similarity model on: phantom reports, each sentence once, and the knowledge base's texts thrice.

    ``more`` are further reports, such as Open-i's; the stored model saw none.
    """
    drawn = (write_report(sample_patient(seed * SEEDS_APART + i)).text for i in range(patients))
    reports = map(findings_text, chain(drawn, more))
    said = {f"{part.strip()}." for report in reports for part in report.split(".") if len(part.split()) > 2}
    known = [row["text"] for kind in ("entities", "categories") for row in base()[kind].values()]
    return [*sorted(said), *known, *known, *known]


def pretrain(
    sentences: Sequence[str],
    tokenizer: ReportTokenizer,
    *,
    steps: int = 1600,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    max_length: int = 96,
    seed: int = 0,
    log: Callable[[str], None] | None = print,
) -> tuple[TextEncoder, list[float]]:
    """Train a small encoder by masked language modelling (15 % of the pieces); returns it, frozen, and the losses in nats.

    Raises ValueError when there are fewer sentences than a batch.
    """
    if len(sentences) < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least as many sentences, got {len(sentences)}")
    torch.manual_seed(seed)
    encoder = TextEncoder(tokenizer, STORED_SIZE, max_length)
    model = BertForMaskedLM(encoder.bert.config).train()
    pieces = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.definition), **SPECIAL)
    collator = DataCollatorForLanguageModeling(pieces, mlm_probability=0.15)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    losses, every = [], max(1, steps // 6)
    for step in range(steps):
        chosen = torch.randint(len(sentences), (batch_size,)).tolist()
        ids = tokenizer([sentences[i] for i in chosen], max_length).long()
        batch = collator([{"input_ids": row, "attention_mask": (row != tokenizer.pad_id).long()} for row in ids])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if log and (step + 1) % every == 0:
            log(f"step {step + 1}/{steps}  masked-word loss {sum(losses[-every:]) / every:.3f}")
    encoder.bert.load_state_dict(model.bert.state_dict())
    return encoder.eval().requires_grad_(False), losses


def store(encoder: TextEncoder, folder: Path, made_of: str) -> None:
    """Write what ``SentenceEncoder.stored`` reads: half-precision weights, tokenizer, and a sentence on the training text."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(halves, folder / "similarity_text.safetensors")
    digest = hashlib.sha256((folder / "similarity_text.safetensors").read_bytes()).hexdigest()
    about = {"made_of": made_of, "sha256": digest, "max_length": encoder.max_length}
    about["tokenizer"] = json.loads(encoder.tokenizer.definition)
    (folder / "similarity_text.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    corpus = similarity_corpus()
    trained, _ = pretrain(corpus, ReportTokenizer.train(corpus))
    store(trained, Path(sys.argv[1]), "phantom reports and the knowledge base; no real report")
