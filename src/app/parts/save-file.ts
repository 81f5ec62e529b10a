/** Hands a file to the person: where the browser can, into a place of their choice, else as a download. */
import { fileSave } from 'browser-fs-access';

/** @returns false where the person closed the dialog */
export async function saveFile(blob: Blob | Promise<Blob>, fileName: string): Promise<boolean> {
  try {
    const extension = fileName.slice(fileName.lastIndexOf('.'));
    await fileSave(blob, { fileName, extensions: [extension], id: 'stillroom' });
    return true;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return false;
    throw error;
  }
}
