/**
 * A masked-LM head for an encoder that was published without one (all-MiniLM-L6-v2 is a bare `BertModel`), as transformers'
 * AutoModelForMaskedLM makes it: a transform from random weights before the model's own embedding. It says nothing until it
 * has been trained, so only a student whose weights are all trained is given one.
 */
import type { TensorFile, TensorInfo } from '../formats/tensor-file.ts';
import { readEncoder } from './architectures/index.ts';
import { fromScratch } from './compress.ts';
import type { EncoderOptions } from './encoder.ts';
import { baseParameters, type Model } from './model.ts';

const CLASSES: Readonly<Record<string, string>> = { bert: 'BertForMaskedLM', distilbert: 'DistilBertForMaskedLM' };

/** @param model a bare encoder */
export function withNewHead(model: Model<EncoderOptions>, seed: number): Model<EncoderOptions> {
  const type = model.config.model_type as string;
  // beside a head, transformers looks for the encoder's weights under the model's own prefix
  const lead = model.options.names.embeddings.startsWith(`${type}.`) ? '' : `${type}.`;
  const stored = new Set([...model.parameters.keys()].map((name) => lead + name));
  stored.add(`${model.options.names.head_transform}.weight`);
  const config = { ...model.config, architectures: [CLASSES[type]] };
  const options = readEncoder(config, `${model.name}/config.json`, stored)!;
  const parameters = baseParameters(options);
  return { ...model, config, options, parameters, weights: beside(model.weights, lead, parameters, seed, config) };
}

/** What is stored, under the names of the model with a head; what is not, from random weights. */
function beside(
  stored: TensorFile,
  lead: string,
  parameters: Model['parameters'],
  seed: number,
  config: Model['config'],
): TensorFile {
  const random = fromScratch(parameters, seed, config);
  const sourceOf = (name: string): string | undefined => {
    const source = name.startsWith(lead) ? name.slice(lead.length) : name;
    return stored.tensors.has(source) ? source : undefined;
  };
  const tensors = new Map<string, TensorInfo>();
  for (const name of parameters.keys()) {
    const source = sourceOf(name);
    tensors.set(name, (source === undefined ? random.tensors.get(name) : stored.tensors.get(source))!);
  }
  const from = (name: string): [TensorFile, string] => {
    const source = sourceOf(name);
    return source === undefined ? [random, name] : [stored, source];
  };
  return {
    name: stored.name,
    tensors,
    metadata: stored.metadata,
    read: (name) => {
      const [file, source] = from(name);
      return file.read(source);
    },
    readF32: (name) => {
      const [file, source] = from(name);
      return file.readF32(source);
    },
  };
}
