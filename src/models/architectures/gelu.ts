/** The forms of GELU by the names that configs have for them. */
import type { GeluForm } from '../../engine/ops/index.ts';
import type { ConfigReader } from '../config.ts';

const GELU: Readonly<Record<string, GeluForm>> = {
  gelu: 'none',
  gelu_python: 'none',
  gelu_new: 'tanh',
  gelu_fast: 'tanh',
  gelu_pytorch_tanh: 'tanh',
};

/** Which GELU transformers' `ACT2FN` means by a name; any other activation is refused. */
export function geluForm(config: ConfigReader, field: string, otherwise: string): GeluForm {
  const name = config.text(field, otherwise);
  const form = Object.hasOwn(GELU, name) ? GELU[name] : undefined;
  if (!form) throw config.wrong(field, name, Object.keys(GELU).join(', '));
  return form;
}
