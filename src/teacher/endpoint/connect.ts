/** The server that a recipe names, found there and serving the model that it names. */
import { EndpointServer, type ServerAccess, type ServerOptions } from './server.ts';

export async function connect(
  { url, model }: { readonly url: string; readonly model: string },
  access: ServerAccess,
  options: ServerOptions = {},
): Promise<EndpointServer> {
  const server = new EndpointServer(url, access, options);
  const models = await server.models();
  // Ollama's names end with a tag that may be left out.
  if (models && !models.includes(model) && !models.includes(`${model}:latest`)) {
    const named = models.slice(0, 5).map((name) => JSON.stringify(name));
    const there = models.length === 0 ? 'none' : `${named.join(', ')}${models.length > 5 ? ', …' : ''}`;
    throw server.fault(`knows no model ${JSON.stringify(model)}`, `a model that it has: ${there}`, 'model');
  }
  return server;
}
