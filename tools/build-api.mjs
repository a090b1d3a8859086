import { isAbsolute, join, relative, sep } from 'node:path'
import { build } from 'esbuild'
import { ROOT } from './setup.mjs'

/** @type {import('esbuild').BuildOptions} */
const SETTINGS = {
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'esm',
  loader: { '.graphql': 'text' },
  logLevel: 'error',
}

/** What looks for files of its own in its package's folder: it must lie in a `node_modules` above a standalone bundle. */
export const BESIDE_STANDALONE = ['better-sqlite3', '@prisma/schema-engine-wasm']

/**
 * Bundles the service: our own sources become one file, third-party packages are left where npm has put them.
 * @param {{ entry?: string, outfile?: string }} [options] Absolute paths; by default the service's own.
 * @returns {Promise<string>} The path of the bundle. It must lie three folders below the repository's root, as `main.ts` does.
 */
export async function buildApi({
  entry = join(ROOT, 'apps/api/src/main.ts'),
  outfile = join(ROOT, 'apps/api/dist/main.js'),
} = {}) {
  await build({
    entryPoints: [entry],
    outfile,
    sourcemap: true,
    plugins: [thirdPartyStaysOutside(join(outfile, '..'))],
    ...SETTINGS,
  })
  return outfile
}

/**
 * Bundles the service's programs with all that they use, for a machine without `node_modules` but for `BESIDE_STANDALONE`.
 * @param {{ outdir: string }} options It must lie three folders below what takes the place of the repository's root there.
 */
export async function buildStandalone({ outdir }) {
  await build({
    entryPoints: ['main', 'healthcheck', 'backup-command'].map((name) =>
      join(ROOT, `apps/api/src/${name}.ts`),
    ),
    outdir,
    splitting: true,
    // What fastify's `inject` needs, which is for tests.
    external: [...BESIDE_STANDALONE, 'light-my-request', 'cpu-features', '*.node'],
    banner: { js: COMMONJS_NAMES },
    ...SETTINGS,
  })
}

/** Of what packages in CommonJS form expect to be there, the names that an ES module lacks. */
const COMMONJS_NAMES = `import { createRequire as createRequireOfBundle } from 'node:module'
const require = createRequireOfBundle(import.meta.url)
const __dirname = import.meta.dirname
const __filename = import.meta.filename`

/**
 * A package that the bundle's folder finds under the same path keeps its name. One that npm has nested below the library that asks for
 * it, because others want another version, is named by its path: from the bundle's folder its name would lead to the other version.
 */
function thirdPartyStaysOutside(outdir) {
  const resolving = Symbol('resolving')
  return {
    name: 'third-party-stays-outside',
    setup({ onResolve, resolve }) {
      onResolve({ filter: /^[^.]/ }, async ({ path, kind, resolveDir, importer, pluginData }) => {
        if (pluginData === resolving || importer === '' || isAbsolute(path) || path.startsWith('node:'))
          return null
        const found = await resolve(path, { kind, resolveDir, importer, pluginData: resolving })
        if (found.errors.length > 0) return { errors: found.errors }
        if (found.external) return found
        if (!found.path.includes(`${sep}node_modules${sep}`)) return null
        const fromBundle = await resolve(path, { kind, resolveDir: outdir, pluginData: resolving })
        if (fromBundle.path === found.path) return { path, external: true }
        return { path: `./${relative(outdir, found.path)}`, external: true }
      })
    },
  }
}
