import nx from '@nx/eslint-plugin'
import tseslint from 'typescript-eslint'

export default tseslint.config(
  { ignores: ['**/out-tsc', '**/dist', '**/generated', '**/*.mjs', '**/vitest.config.ts'] },
  {
    files: ['**/{src,test,bench}/**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // A `default` says that the rest is meant to be alike.
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      // Numbers read well in messages; what matters is that no object gets there.
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
    },
  },
  {
    files: ['**/src/**/*.ts'],
    plugins: { '@nx': nx },
    rules: {
      '@nx/enforce-module-boundaries': [
        'error',
        {
          banTransitiveDependencies: true,
          // Of workers' programs, and installed for those alone: see their build.mjs.
          allow: ['node-llama-cpp', '@qvac/**', 'bare-*'],
          depConstraints: [
            {
              sourceTag: 'type:app',
              onlyDependOnLibsWithTags: ['type:adapter', 'type:domain', 'type:protocol'],
            },
            { sourceTag: 'type:adapter', onlyDependOnLibsWithTags: ['type:domain', 'type:protocol'] },
            {
              sourceTag: 'type:domain',
              onlyDependOnLibsWithTags: ['type:protocol'],
              bannedExternalImports: [
                'dockerode',
                '@prisma/*',
                'graphql',
                '@apollo/*',
                'graphql-ws',
                'fastify',
              ],
            },
            { sourceTag: 'type:protocol', onlyDependOnLibsWithTags: [], allowedExternalImports: [] },
            { sourceTag: 'type:worker', onlyDependOnLibsWithTags: ['type:worker'] },
            // It knows the service by its schema alone.
            {
              sourceTag: 'type:client',
              onlyDependOnLibsWithTags: [],
              allowedExternalImports: ['graphql-ws*'],
            },
            // The SDK is one of them.
            { sourceTag: 'type:worker', onlyDependOnLibsWithTags: ['type:worker'] },
            {
              sourceTag: 'type:tool',
              onlyDependOnLibsWithTags: ['type:tool', 'type:adapter', 'type:domain', 'type:protocol'],
            },
          ],
        },
      ],
    },
  },
)
