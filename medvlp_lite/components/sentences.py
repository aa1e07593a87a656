"""Some of a report's sentences in random order, as MaCo reads reports; put together from word pieces that were cut once.

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from medvlp_lite.encoders.text import ReportTokenizer

LONGEST = 1_000_000  # word pieces: nothing is cut off before sentences are chosen


def split_sentences(report: str, keep_empty: bool = False) -> list[str]:
    """The pieces between a report's full stops; those that are empty or say "none" are left out.

    With ``keep_empty`` they stay, as "": the released code counts them when it chooses, so that nothing may be left.
    """
    pieces = [piece.strip() for piece in report.split(".")]
    pieces = ["" if piece.lower() == "none" else piece for piece in pieces]
    return pieces if keep_empty else [piece for piece in pieces if piece]


def cut_sentences(reports: Sequence[Sequence[str]], tokenizer: ReportTokenizer) -> dict[str, torch.Tensor]:
    """Word pieces of N reports, each a list of sentences; a sentence that many reports share is cut once.

    Returns:
        ``token_ids`` (N, L), the start token and then all sentences with their full stops, padded; ``sentences`` (N, L), the
        sentence each of them belongs to: 0 for the start token, 1 to n, -1 for padding; ``counts`` (N,), n.
    """
    distinct = list(dict.fromkeys(sentence for report in reports for sentence in report if sentence))
    cut = tokenizer(["", *(f"{sentence}." for sentence in distinct)], LONGEST)
    ends = (cut != tokenizer.pad_id).sum(dim=1).tolist()
    tail = 0 if tokenizer.end_id is None else 1
    pieces = {text: row[1 : end - tail] for text, row, end in zip(["", *distinct], cut, ends)}
    pieces[""], start = cut[0, :0], cut[0, :1]
    rows, numbers = [], []
    for report in reports:
        parts = [start, *(pieces[sentence] for sentence in report)]
        rows.append(torch.cat(parts))
        lengths = torch.tensor([len(part) for part in parts])
        numbers.append(torch.arange(len(parts), dtype=torch.int16).repeat_interleave(lengths))
    ids = _padded(rows, tokenizer.pad_id)
    counts = torch.tensor([len(report) for report in reports])
    missing = max(0, int(counts.max()) - ids.shape[1])  # empty sentences may be more than word pieces
    wide = F.pad(ids, (0, missing), value=tokenizer.pad_id), F.pad(_padded(numbers, -1), (0, missing), value=-1)
    return {"token_ids": wide[0], "sentences": wide[1], "counts": counts}


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def sample_sentences(
    token_ids: torch.Tensor,
    sentences: torch.Tensor,
    counts: torch.Tensor,
    *,
    pad: int,
    end: int | None,
    max_length: int,
) -> torch.Tensor:
    """Word pieces (B, <= ``max_length``) of k of each report's n sentences in random order, k uniform in 1..n.

    Rows as ``cut_sentences`` gives them. ``end`` closes each text; texts that are too long are cut before it.
    """
    places = torch.arange(token_ids.shape[1] + 1, device=token_ids.device)
    counts = counts.unsqueeze(1)
    # a random rank for each sentence: the start token keeps 0, sentences get 1 to n
    noise = torch.rand(len(token_ids), len(places), device=token_ids.device)
    noise = noise.masked_fill(places > counts, 2.0).masked_fill(places == 0, -1.0)
    rank = noise.argsort(dim=1).argsort(dim=1)
    chosen = 1 + torch.minimum((torch.rand_like(noise[:, :1]) * counts).long(), counts - 1)
    # word pieces follow the rank of their sentence; what is not chosen, and padding, goes to the end
    key = rank.gather(1, sentences.long().clamp(min=0))
    key = key.masked_fill((sentences < 0) | (key > chosen), len(places))
    key, order = key.sort(dim=1, stable=True)
    kept = key < len(places)
    texts = F.pad(token_ids.gather(1, order).masked_fill(~kept, pad), (0, 1), value=pad)[:, :max_length]
    if end is None:
        return texts
    lengths = kept.sum(dim=1, keepdim=True).clamp(max=texts.shape[1] - 1)
    return texts.scatter(1, lengths, end)
