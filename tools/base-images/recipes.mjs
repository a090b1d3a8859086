/**
 * The base images that can be made from Debian packages, by the name that Dockerfiles call them.
 * @type {Readonly<Record<string, { rootfs: import('./rootfs.mjs').RootfsRecipe, changes: readonly string[] }>>}
 */
export const BASE_IMAGES = {
  'python:3.11-slim': {
    // Debian 12's python3 is 3.11.
    rootfs: {
      release: 'bookworm',
      packages: ['python3', 'ca-certificates'],
      links: { '/usr/bin/python': 'python3' },
    },
    changes: [
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      'ENV LANG=C.UTF-8',
      'CMD ["python3"]',
    ],
  },
  'node:20-trixie-slim': {
    // Debian 13's nodejs is 20.19. With the library that engines of models need: where this image is used, packages can hardly be added.
    rootfs: { release: 'trixie', packages: ['nodejs', 'ca-certificates', 'libgomp1'], links: {} },
    changes: [
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      'ENV LANG=C.UTF-8',
      'CMD ["node"]',
    ],
  },
}
