"""Writes tests/golden/tokenizers/trained/golden.json: what transformers makes of a tokenizer trained here.

    pip install transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3
    build/moebius corpus -o DIR --train 200 --held-out 0   # DIR/train.jsonl is the folder's corpus.jsonl
    build/tokenizer_train_test --gtest_also_run_disabled_tests --gtest_filter='*WritesTheFolder'
    python3 tests/golden/make_trained_tokenizer_golden.py

Run from the root of the repository. The folder is opened by AutoTokenizer alone; sentencepiece's own reader must
agree with it on every text without a symbol.
"""
import json
import pathlib

import sentencepiece
from transformers import AutoTokenizer

FOLDER = pathlib.Path("tests/golden/tokenizers/trained")


def main():
    texts = json.loads((FOLDER.parent / "texts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
    ids = [tokenizer(text)["input_ids"] for text in texts]
    added = list(tokenizer.get_added_vocab())
    for text, own in zip(texts, ids):
        assert any(symbol in text for symbol in added) or pieces.encode(text) == own, text
        assert tokenizer.decode(own) == text.replace("\u2581", " "), text
    conversations = []
    for line in (FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        rendered = {"conversation": example["messages"], "tools": example.get("tools")}
        conversations.append({
            "text": tokenizer.apply_chat_template(**rendered, tokenize=False),
            "ids": tokenizer.apply_chat_template(**rendered)["input_ids"],
        })
    golden = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "ids": ids,
        "conversations": conversations,
    }
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (FOLDER / "golden.json").write_text(text + "\n", encoding="utf-8")


main()
