/**
 * Recipe ⇄ URL fragment: `#recipe=` and the JSON, deflated, in base64url. A link carries what was written, not the
 * filled-in defaults, and starts nothing by itself: opening it shows the recipe.
 */
import { InputError } from '../formats/input-error.ts';
import { parseRecipe } from './parse.ts';
import type { RecipeInput } from './schema.ts';

const KEY = 'recipe=';
/** Bytes of JSON; a fragment that inflates to more is refused, since it could come from anyone. */
const LIMIT = 256 * 1024;

export async function recipeToFragment(recipe: RecipeInput): Promise<string> {
  const json = new TextEncoder().encode(JSON.stringify(recipe));
  const stream = new Blob([json]).stream().pipeThrough(new CompressionStream('deflate-raw'));
  return KEY + toBase64Url(new Uint8Array(await new Response(stream).arrayBuffer()));
}

/** @returns undefined where the fragment holds no recipe; throws an InputError where it holds a broken one. */
export async function recipeFromFragment(fragment: string): Promise<RecipeInput | undefined> {
  const body = fragment.replace(/^#/, '');
  if (!body.startsWith(KEY)) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(await inflate(fromBase64Url(body.slice(KEY.length))));
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError('link', 'recipe', 'is cut or damaged', 'the whole link, as it was copied');
  }
  parseRecipe(json, 'link');
  return json as RecipeInput;
}

async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate-raw')).getReader();
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let text = '';
  for (let size = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.byteLength;
    if (size > LIMIT) {
      await reader.cancel();
      throw new InputError('link', 'recipe', `holds more than ${LIMIT / 1024} KB`, 'a recipe, which is a few KB');
    }
    text += decoder.decode(value, { stream: true });
  }
}

function toBase64Url(bytes: Uint8Array): string {
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  return btoa(binary).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

function fromBase64Url(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
}
