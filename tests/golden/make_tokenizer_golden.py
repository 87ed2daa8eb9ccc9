"""Makes tests/golden/tokenizers: small tokenizers of each kind and what the reference libraries do with them.

Needs: pip install tokenizers==0.23.3 tiktoken==0.14.0 sentencepiece==0.2.3
Run from the root of the repository: python3 tests/golden/make_tokenizer_golden.py [--texts N --seed S --out DIR]

texts.json          seeded random Unicode strings, shared by all sets
<set>/              the tokenizer's own files (tokenizer.json, tiktoken.model or tokenizer.model, and its config)
<set>/golden.json   ids[i] = ids of texts[i]; untrusted: {i: ids} with every marker as plain characters;
                    with_special: {i: ids} with the ids the file adds; decode: [[ids], text, text without specials]
pretokenizers.json  pre-tokenizer settings, texts, and the pieces the library cuts
"""

import argparse
import base64
import json
import pathlib
import random
import tempfile

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
GLM = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + TAIL,
]
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI = (
    r"[\p{Han}]+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
)

WORDS = (
    "the quick brown fox jumps over lazy dogs and then returns home again with nothing to show for it "
    "don't I'll we've it's THEY'RE you'd I'M O'Brien rock'n'roll camelCase HTTPServer snake_case "
    "Äpfel naïve café cafe\u0301 Ångström A\u030angstro\u0308m ﬁne ſet \u212aelvin ǅungla ʰa "
    "привет Москва Ελλάδα σήμερα שלום مرحبا हिन्दी สวัสดี ក្រម Việt việ\u0323t "
    "你好 世界 我想工作 漢字 々 〇 ⺀ こんにちは カタカナ 안녕하세요 \u1112\u1161\u11ab 日本語text"
).split(" ")
SYMBOLS = ". , ! ? ... -- => :: #include () [] {} $x %d @me _ / \\ \" ' ` ~ ！ 。 、 「」 … — € ™ ∑ ½ ² Ⅷ ٣٤ ５６".split(" ")
NUMBERS = "0 7 42 365 2024 31415926 1,000.50 1e-9 0xFF".split(" ")
EMOJI = ["🙂", "🚀", "👍🏽", "👩\u200d💻", "🇫🇷", "😶\u200d🌫\ufe0f", "✅", "⚠\ufe0f"]
SPACES = [" ", "  ", "     ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e"]
ODD = ["\x00", "\x1f", "\x7f", "\u200b", "\u200d", "\ufeff", "\ue000", "\ufffd", "\u0301\u0323", "\U0001d49c", "\U0010ffff"]
MARKERS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "｜DSML｜", "[gMASK]", "<sop>", "<｜User｜>",
           "<｜begin▁of▁sentence｜>", "<|reserved_token_", "<|reserved_token_900|>", "[BOS]", "[EOS]", "<|im_", "<tool_call>"]


def random_text(rng):
    pools = [WORDS] * 6 + [SYMBOLS] * 2 + [NUMBERS] * 2 + [EMOJI, SPACES, SPACES, ODD, MARKERS]
    parts = []
    for _ in range(rng.randint(1, 9)):
        parts.append(rng.choice(rng.choice(pools)))
        parts.append(rng.choice([" ", " ", " ", "", ""]))
    return "".join(parts)


def corpus():
    rng = random.Random(1)
    return [random_text(rng).replace("<", "") for _ in range(3000)]


def trained(pre_tokenizer, vocab_size, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def splits(patterns):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def has_marker(text):
    return "<" in text or "[" in text or "é" in text or "fox" in text


def golden(texts, encode, untrusted, with_special, decode, decodable):
    marked = [i for i, t in enumerate(texts) if has_marker(t)][:25]
    rng = random.Random(2)
    decoded = []
    for _ in range(25):
        ids = [rng.choice(decodable) for _ in range(rng.randint(1, 8))]
        decoded.append([ids, decode(ids, False), decode(ids, True)])
    return {
        "ids": [encode(t) for t in texts],
        "untrusted": {str(i): untrusted(texts[i]) for i in marked},
        "with_special": {str(i): with_special(texts[i]) for i in marked[:5]},
        "decode": decoded,
    }


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write_huggingface(out, texts, name, tokenizer, config, edit=lambda root: None, configured_bos=None):
    """edit changes the file after training, before anything is recorded. configured_bos: what the configuration,
    not the file, puts before a text."""
    root = json.loads(tokenizer.to_str())
    edit(root)
    write(out / name, "tokenizer.json", root)
    write(out / name, "tokenizer_config.json", config)
    tokenizer = Tokenizer.from_str(json.dumps(root))
    # What looks like markup counts as special where a text is not trusted.
    for token in root["added_tokens"]:
        text = token["content"]
        if text[0] in "<｜" or text[0] + text[-1] == "[]":
            token["special"] = True
    strict = Tokenizer.from_str(json.dumps(root))
    strict.encode_special_tokens = True
    bos = [tokenizer.token_to_id(configured_bos)] if configured_bos else []
    write(out / name, "golden.json", golden(
        texts,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda text: strict.encode(text, add_special_tokens=False).ids,
        lambda text: bos + tokenizer.encode(text, add_special_tokens=True).ids,
        lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip),
        # The library decodes an added token by the byte alphabet where it can, and so loses its letters.
        [i for i in range(tokenizer.get_vocab_size()) if not tokenizer.id_to_token(i).startswith("caf")]))


def make_qwen(out, texts):
    tokenizer = trained(splits([QWEN]), 600, normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>", "<tool_call>")])
    config = {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>"}
    write_huggingface(out, texts, "qwen", tokenizer, config)


def make_glm(out, texts):
    tokenizer = trained(splits([GLM]), 500)
    tokenizer.add_special_tokens(["<|endoftext|>", "[gMASK]", "<sop>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)

    def old_merges(root):
        root["model"]["merges"] = [" ".join(pair) for pair in root["model"]["merges"]]

    config = {"add_bos_token": True, "bos_token": {"content": "[gMASK]"}, "eos_token": "<|endoftext|>"}
    write_huggingface(out, texts, "glm", tokenizer, config, old_merges, "[gMASK]")


def make_deepseek(out, texts):
    tokenizer = trained(splits(DEEPSEEK), 500)
    bos = "<｜begin▁of▁sentence｜>"
    tokenizer.add_special_tokens([bos, "<｜end▁of▁sentence｜>"])
    tokenizer.add_tokens([AddedToken("<｜User｜>", normalized=True), AddedToken("<think>", normalized=True),
                          AddedToken("｜DSML｜", normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    config = {"add_bos_token": True, "bos_token": {"content": bos}, "eos_token": {"content": "<｜end▁of▁sentence｜>"}}
    write_huggingface(out, texts, "deepseek", tokenizer, config)


def make_quirks(out, texts):
    """Settings that the families do not use together: prefix space, digits, strip flags, words before merges."""
    steps = [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    tokenizer = trained(pre_tokenizers.Sequence(steps), 450, normalizers.Sequence([normalizers.NFKC()]))
    root = json.loads(tokenizer.to_str())
    root["model"]["ignore_merges"] = True
    root["model"]["vocab"]["Ġjumps"] = 450
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", lstrip=True), AddedToken("<|im_end|>", rstrip=True),
                                  AddedToken("<think>", lstrip=True, rstrip=True), "<|im_"])
    tokenizer.add_tokens([AddedToken("fox", single_word=True), AddedToken("cafe\u0301", normalized=True),
                          AddedToken("</think>", normalized=False, rstrip=True)])

    def edit(root):
        ids = {t["content"]: t["id"] for t in root["added_tokens"]}
        entry = lambda text: {"id": text, "ids": [ids[text]], "tokens": [text]}
        special = lambda text: {"SpecialToken": {"id": text, "type_id": 0}}
        template = {
            "type": "TemplateProcessing",
            "single": [special("<|im_start|>"), {"Sequence": {"id": "A", "type_id": 0}}, special("<|im_end|>")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: entry(t) for t in ("<|im_start|>", "<|im_end|>")},
        }
        byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        root["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}

    write_huggingface(out, texts, "quirks", tokenizer, {}, edit)


def make_kimi(out, texts):
    trained_as = trained(splits([KIMI]), 700)
    to_byte = {c: b for b, c in zip(byte_order(), byte_alphabet())}
    vocab = {bytes(to_byte[c] for c in token): id for token, id in trained_as.get_vocab().items()}
    ranks = {token: rank for rank, token in enumerate(sorted(vocab, key=vocab.get))}
    named = {"[BOS]": 0, "[EOS]": 1, "<|im_end|>": 2, "<|im_user|>": 3, "<|im_middle|>": 17, "<think>": 20}
    named = {text: len(ranks) + offset for text, offset in named.items()}
    specials = dict(named)
    for id in range(len(ranks), len(ranks) + 256):
        if id not in named.values():
            specials[f"<|reserved_token_{id}|>"] = id
    folder = out / "kimi"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (folder / "tiktoken.model").write_text("".join(lines))
    write(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {
            str(id): {"content": text, "special": text != "<think>", "lstrip": False, "rstrip": False,
                      "normalized": False, "single_word": False} for text, id in named.items()},
        "bos_token": "[BOS]", "eos_token": "[EOS]"})
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=specials)
    skipped = set(specials.values()) - {named["<think>"]}
    write(folder, "golden.json", golden(
        texts,
        lambda text: encoding.encode(text, allowed_special="all"),
        lambda text: encoding.encode(text, disallowed_special=()),
        lambda text: encoding.encode(text, allowed_special="all"),
        lambda ids, skip: encoding.decode([i for i in ids if not (skip and i in skipped)]),
        range(len(ranks) + 256)))


def byte_order():
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    return own + [b for b in range(256) if b not in own]


def byte_alphabet():
    own = byte_order()[:188]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(68)]


def make_sentencepiece(out, texts):
    folder = out / "sentencepiece"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch) / "corpus.txt"
        source.write_text("\n".join(t.replace("\n", " ").replace("\x00", "") for t in corpus()), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(source), model_prefix=scratch + "/m", vocab_size=700, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
            character_coverage=0.98, user_defined_symbols=["<|im_start|>", "<|im_end|>", "｜DSML｜"], control_symbols=["<pad>"],
            num_threads=1, minloglevel=2)
        model = (pathlib.Path(scratch) / "m.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    write(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {str(processor.get_piece_size()): {"content": "<tool_call>", "special": False}}})
    special = [i for i in range(processor.get_piece_size()) if processor.is_control(i)]
    # Tokens of the configuration are the engine's own to find, and control pieces to show.
    values = golden(
        [t.replace("<tool_call>", "") for t in texts], processor.encode, processor.encode,
        lambda text: [processor.bos_id()] + processor.encode(text),
        lambda ids, skip: processor.decode([i for i in ids if i not in special]),
        range(processor.get_piece_size()))
    values["untrusted"] = {}
    values["with_special"] = {i: ids for i, ids in values["with_special"].items() if "<tool_call>" not in texts[int(i)]}
    write(folder, "golden.json", values)


def make_pretokenizers(out, texts):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = lambda pattern, behavior="Isolated", invert=False: {
        "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    regex = lambda text, *more: split({"Regex": text}, *more)
    steps = []
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            steps.append(regex(r"\s", behavior, invert))
    steps.append(split({"String": "o"}, "MergedWithNext"))
    steps.append(split({"String": "世"}, "Contiguous", True))
    for text in (r"\s+$", r"^.", r"\w+|[^\w\s]+", r"[a-z&&[^aeiou]]+", r"[^\s&&[^a]]", r"[\p{L}&&[^\p{Lu}\p{Han}]]+",
                 r"[\p{Han}\p{Hiragana}]+", r"\bfox\b", r"x*", r"\p{N}{1,2}+", r".{,3}", r"[[:alpha:]]+", r"[[:punct:][:^word:]]+", r"[[:upper:]]+", r"[^[:lower:]]+", r"(?<=o)w",
                 r"\h+", r"[^\S\n]+", r"[\d\-a]+", r"(?i:THE|K|s)", r"\P{L}+", r"\p{^L}+", r"[a[b-d]e]+", r"(?m:e.)", r"(?i)THE|O|(?-i:ROW)",
                 r"\x{4f60}|\u597D", r"[\x61e-i]+", r"a++|e?+", r"(o|w)n?", r"{|}"):
        steps.append(regex(text))
    steps.append({"type": "Digits", "individual_digits": True})
    steps.append({"type": "Digits", "individual_digits": False})
    to_byte = {c: b for b, c in zip(byte_order(), byte_alphabet())}
    cases = []
    chosen = texts[:14] + ["fox's \n fox \n\n ab{}ow on", "", "   ", " a\n b \n\n", "x"]
    for step in steps:
        root = {"type": "Sequence", "pretokenizers": [step, byte_level]}
        tokenizer = Tokenizer(models.BPE())
        loaded = json.loads(tokenizer.to_str())
        loaded["pre_tokenizer"] = root
        pre = Tokenizer.from_str(json.dumps(loaded)).pre_tokenizer
        pieces = [[bytes(to_byte[c] for c in p).decode() for p, _ in pre.pre_tokenize_str(t)] for t in chosen]
        cases.append({"step": step, "pieces": pieces})
    write(out, "pretokenizers.json", {"texts": chosen, "cases": cases})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20240)
    parser.add_argument("--out", default="tests/golden/tokenizers")
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    rng = random.Random(options.seed)
    texts = [random_text(rng) for _ in range(options.texts)]
    make_qwen(out, texts)
    make_glm(out, texts)
    make_deepseek(out, texts)
    make_quirks(out, texts)
    make_kimi(out, texts)
    make_sentencepiece(out, texts)
    make_pretokenizers(out, texts)
    write(out, "texts.json", texts)


if __name__ == "__main__":
    main()
