/** Runs in the page: what a site does with an exported folder. */
import { env, pipeline } from '/lib/transformers.min.js';

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = '/models/';
env.backends.onnx.wasm.wasmPaths = '/ort/';

/** @param {'wasm' | 'webgpu'} device */
export async function write(device) {
  const generator = await pipeline('text-generation', 'model', { device });
  const chat = [{ role: 'user', content: '47 + 38 = ?' }];
  const inputs = generator.tokenizer.apply_chat_template(chat, { add_generation_prompt: true, return_dict: true });
  const options = { max_new_tokens: 12, do_sample: false };
  const written = await generator.model.generate({ ...inputs, ...options });
  const [answer] = await generator(chat, options);
  await generator.dispose();
  return {
    ids: written.tolist()[0].map(Number),
    prompt: inputs.input_ids.dims[1],
    text: answer.generated_text.at(-1).content,
  };
}
