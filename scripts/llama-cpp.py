"""What llama.cpp makes of a GGUF file, by llama-cpp-python: the other side of src/export/gguf/llama-cpp.test.ts.

On stdin one JSON object: {"model": path, "messages": [{"role", "content"}], "tokens": how many to write at most, "context": tokens}.
On stdout one: {"prompt": the file's chat template of the messages, "input_ids": its tokens, "written": greedy tokens,
"logits": base64 of f32 [tokens, vocab], those that each written token is the largest of}.
"""

import base64
import json
import sys

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

asked = json.load(sys.stdin)
# Keys and values as f32: rounded to f16, as they are otherwise, they would be the largest difference.
model = llama_cpp.Llama(
    asked["model"], n_ctx=asked["context"], type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False
)
word = lambda id: model.detokenize([id], special=True).decode() if id >= 0 else ""
template = Jinja2ChatFormatter(
    model.metadata["tokenizer.chat_template"], eos_token=word(model.token_eos()), bos_token=word(model.token_bos())
)
prompt = template(messages=asked["messages"]).prompt
input_ids = model.tokenize(prompt.encode(), add_bos=False, special=True)

written, logits = [], []
following = input_ids
for _ in range(asked["tokens"]):
    model.eval(following)
    row = llama_cpp.llama_get_logits_ith(model._ctx.ctx, -1)
    logits.append(np.ctypeslib.as_array(row, shape=(model.n_vocab(),)).astype("<f4"))
    written.append(int(logits[-1].argmax()))
    following = written[-1:]
    if written[-1] == model.token_eos():
        break

json.dump(
    {
        "prompt": prompt,
        "input_ids": input_ids,
        "written": written,
        "logits": base64.b64encode(np.concatenate(logits).tobytes()).decode(),
    },
    sys.stdout,
)
