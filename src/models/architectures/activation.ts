/** Activations by the names that configs have for them: transformers' `ACT2FN`. */
import type { ActivationName } from '../../engine/ops/index.ts';
import type { ConfigReader } from '../config.ts';

const ACTIVATIONS: Readonly<Record<string, ActivationName>> = {
  gelu: 'gelu',
  gelu_python: 'gelu',
  // one formula, written five ways: they differ by roundings
  gelu_new: 'gelu_pytorch_tanh',
  gelu_fast: 'gelu_pytorch_tanh',
  gelu_accurate: 'gelu_pytorch_tanh',
  gelu_python_tanh: 'gelu_pytorch_tanh',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
};

/** What `ACT2FN` means by the name in a field; an activation that is not computed is refused. */
export function activationOf(config: ConfigReader, field: string, otherwise: string): ActivationName {
  const name = config.text(field, otherwise);
  const found = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (!found) throw config.wrong(field, name, Object.keys(ACTIVATIONS).join(', '));
  return found;
}
