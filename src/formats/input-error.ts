/**
 * The one error for input that a person brought and that cannot be used: a recipe, a row, a weights file, a template.
 * It reads `file: place: what is wrong: what is allowed` on the command line (exit 2) and in the page alike.
 */
export class InputError extends Error {
  override readonly name = 'InputError';

  /**
   * @param file what was read, as the person named it (path, URL, "pasted rows")
   * @param place field or line inside it ("training.learning_rate", "line 12", "tensor model.norm.weight"), '' if it is the whole
   * @param what what is wrong, in words
   * @param allowed what would be right, in words
   */
  constructor(
    readonly file: string,
    readonly place: string,
    readonly what: string,
    readonly allowed: string,
  ) {
    super([file, place, what, allowed].filter((part) => part !== '').join(': '));
  }

  /** The same error seen from a caller that knows the file's name. */
  inFile(file: string): InputError {
    return new InputError(file, this.place, this.what, this.allowed);
  }
}
