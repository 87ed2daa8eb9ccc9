"""The tokenizer of deepseek_v3_tiny: a byte-level BPE of 512 tokens, with the specials and chat form of Moonlight."""

import json
import os

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIALS = ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXT = """
The miller opened the gate and the water ran down to the wheel. The wheel turned the stone, and the stone turned
the grain to flour. Every morning the children of the village came to the mill with their bags, and every evening
they went home with bread. What would you like to know about the mill? I can tell you how the wheel works, who
built it, and when it was first used. Thank you for your question; here is the answer in a few short steps.
First, the water of the river is led into a narrow channel. Second, the channel brings the water to the top of the
wheel. Third, the weight of the water pushes the wheel around. The river is not very deep, but in the spring there
is more than enough water for two wheels, and then the miller works from early in the morning until late at night.
Once there was a long and dry summer. For ninety days there was no rain, and the river became a small stream that
could not move anything. The people asked the miller what they should do. He said that they had to share the grain
that they still had, and that everyone should take only what was needed. When the rain came back, the wheel began
to turn again, and the whole village stood beside the water and listened to the sound of it.
Please write a short story about a river. Please explain this to me as if I were a child. Could you help me with
that? Of course, I would be happy to help you. Do you have other questions? Yes, I have one more question. How many
bags of flour did they make in 1904? They made about 250 bags in the first year and 375 bags in the next year.
It is important to say that this is only an example, because there are many different kinds of mills. Some of them
use the wind, others use the water, and a few of them use horses. The first thing that you should look at is the
place where the mill stands. If it stands on a hill, then it is a windmill. If it stands beside a river, then it is
a water mill. The user asked for an answer, and the assistant gave the best answer that it could find. You are a
helpful assistant. The system works with messages, and each message has a role and some text. These are the things
which make a good conversation: listening, thinking before speaking, and saying things in a clear and simple way.
"""

CHAT_TEMPLATE = """\
{%- if messages and messages[0]['role'] != 'system' -%}
<|im_system|>system<|im_middle|>You are a helpful assistant.<|im_end|>
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}<|im_assistant|>
{%- elif message['role'] == 'user' -%}<|im_user|>
{%- else -%}<|im_system|>
{%- endif -%}
{{ message['name'] or message['role'] }}<|im_middle|>{{ message['content'] }}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}
"""


def _write(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write_tokenizer(folder, config):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=config["vocab_size"] - len(SPECIALS), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT.replace("\n", " ")] + TEXT.splitlines(), trainer)
    added = [tokenizers.AddedToken(text, special=True, normalized=False) for text in SPECIALS]
    tokenizer.add_special_tokens(added)
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    ids = {text: tokenizer.token_to_id(text) for text in SPECIALS}
    assert (ids["[BOS]"], ids["[EOS]"]) == (config["bos_token_id"], config["eos_token_id"])
    for text in (TEXT, "na\u00efve \u4e2d\u6587 \U0001f600 12345\r\n\t x", "<|im_user|>user<|im_middle|>hi<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {str(i): {"content": text} | flags for text, i in ids.items()},
        "additional_special_tokens": SPECIALS[2:], "bos_token": "[BOS]", "eos_token": "[EOS]",
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast"})
    _write(folder, "generation_config.json", {
        "bos_token_id": ids["[BOS]"], "eos_token_id": [ids["[EOS]"], ids["<|im_end|>"]], "do_sample": True,
        "temperature": 0.8, "top_p": 0.95, "max_length": config["max_position_embeddings"]})
